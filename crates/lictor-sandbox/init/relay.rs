//! The way out: whoever connects to a port of the loopback interface is connected to the egress proxy, which is none of
//! this kernel's.
//!
//! ```text
//!   job ── connects ─▶ listener ─ one word ─▶ agent
//!                         │  ◀─ one word, and a socket that leads to the proxy ─┘
//!                         └─▶ bytes from the one to the other and back, to the end of both
//! ```
//!
//! # Invariants
//! - What is asked of the agent is one connection after the other. Whether it is given, and what may be reached through
//!   it, is not decided here.
//! - Memory is bounded: two rooms for each connection, and so many connections; more of them wait.
//! - The end of one direction is passed on, and the other one goes on.
//! - Nothing is waited for but by `poll`.

use crate::call::{number, system};
use crate::socket::{self, EAGAIN, ECONNABORTED, EINTR, GONE, IN, OUT, Poll, Wait, Word};

/// One more than the proxy takes of any job, so that it is the proxy that refuses one too many; and as many as may wait for
/// the proxy, so that others wait in this kernel.
const MOST: usize = 1024 + 1;
const ROOM: usize = 16 * 1024;
const SFD_NONBLOCK_CLOEXEC: usize = 0o4000 | 0o2_000_000;
const NOFILE: usize = 7;
/// No descriptor is 0, which is the job's input.
const NONE: usize = 0;

/// One direction of a connection.
struct Flow {
    room: [u8; ROOM],
    /// What of it is to be written.
    from: usize,
    to: usize,
    /// Nothing more comes.
    is_over: bool,
    /// And the other side was told.
    is_told: bool,
}

struct Connection {
    /// Of the job's; `NONE` when there is no such connection.
    client: usize,
    /// The way to the proxy.
    server: usize,
    up: Flow,
    down: Flow,
}

#[derive(PartialEq, Eq)]
enum Passed {
    Something,
    Nothing,
    /// The connection is of no use any more.
    Broken,
}

/// The list for `poll`, which ends after the last connection that there ever was.
#[repr(C)]
struct Polls {
    signals: Poll,
    agent: Poll,
    listener: Poll,
    connections: [[Poll; 2]; MOST],
}

struct Tables {
    connections: [Connection; MOST],
    polls: Polls,
}

const FLOW: Flow = Flow {
    room: [0; ROOM],
    from: 0,
    to: 0,
    is_over: false,
    is_told: false,
};
const CONNECTION: Connection = Connection {
    client: NONE,
    server: NONE,
    up: FLOW,
    down: FLOW,
};
const POLL: Poll = Poll {
    descriptor: 0,
    wanted: 0,
    found: 0,
};

/// All zeros, so that it takes no room in the file, and memory only as far as it is used.
static mut TABLES: Tables = Tables {
    connections: [const { CONNECTION }; MOST],
    polls: Polls {
        signals: POLL,
        agent: POLL,
        listener: POLL,
        connections: [[POLL; 2]; MOST],
    },
};

pub(crate) struct Relay {
    listener: usize,
    agent: usize,
    signals: usize,
    /// Whom the agent was asked for.
    asking: usize,
    /// No descriptors were left; some are when a connection ends.
    is_full: bool,
    /// Places that were ever taken.
    used: usize,
    tables: &'static mut Tables,
}

impl Relay {
    /// Listens; `agent` is the socket that it is asked through.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Safety
    /// There is no other, and all signals are blocked.
    pub(crate) unsafe fn open(port: u16, agent: usize) -> Result<Self, isize> {
        let all = !0_u64;
        // SAFETY: the set is live.
        let signals = unsafe {
            let words = [usize::MAX, (&raw const all) as usize, 8, SFD_NONBLOCK_CLOEXEC, 0];
            system(number::SIGNALFD4, words)
        };
        let listener = socket::listen(port);
        if signals < 0 || listener < 0 {
            return Err(signals.min(listener));
        }
        Ok(Self {
            listener: listener as usize,
            agent,
            signals: signals as usize,
            asking: NONE,
            is_full: false,
            used: 0,
            // SAFETY: nobody else has them, as the caller vouches.
            tables: unsafe { &mut *&raw mut TABLES },
        })
    }

    /// Takes as many descriptors as this process may have.
    pub(crate) fn take_room(&self) {
        let mut limit = (0_u64, 0_u64);
        let at = &raw mut limit;
        // SAFETY: of this process alone; the limit is live.
        unsafe {
            if system(number::PRLIMIT64, [0, NOFILE, 0, at as usize, 0]) == 0 {
                let (_, most) = at.read_volatile();
                at.write_volatile((most, most));
                system(number::PRLIMIT64, [0, NOFILE, at as usize, 0, 0]);
            }
        }
    }

    /// Passes bytes on until there is a signal, and says which.
    pub(crate) fn until_signal(&mut self) -> isize {
        loop {
            self.wait();
            let Tables { connections, polls } = &mut *self.tables;
            let used = connections.iter_mut().zip(&polls.connections).take(self.used);
            for (connection, [client, server]) in used {
                if client.found | server.found != 0 && connection.serve(client.found, server.found) {
                    connection.close();
                    self.is_full = false;
                }
            }
            let (signals, agent, listener) = (&polls.signals, &polls.agent, &polls.listener);
            let [signals, agent, listener] = [signals, agent, listener].map(|p| p.found != 0);
            if agent {
                self.hear();
            }
            if listener {
                self.ask();
            }
            if signals && let Some(signal) = self.signal() {
                return signal;
            }
        }
    }

    /// What whoever has ended has written goes out, as far as there is room for it.
    pub(crate) fn flush(&mut self) {
        for c in self.tables.connections.iter_mut().take(self.used) {
            while c.client != NONE && pass((c.client, c.server), &mut c.up) == Passed::Something {}
        }
    }

    fn wait(&mut self) {
        let may_ask = self.asking == NONE && !self.is_full && self.place().is_some();
        let Tables { connections, polls } = &mut *self.tables;
        polls.signals = want(self.signals, IN);
        polls.agent = want(self.agent, IN);
        polls.listener = want(if may_ask { self.listener } else { NONE }, IN);
        for (c, polls) in connections.iter().zip(&mut polls.connections).take(self.used) {
            *polls = [
                want(c.client, c.up.reads() | c.down.writes()),
                want(c.server, c.down.reads() | c.up.writes()),
            ];
        }
        // SAFETY: it begins with three, and two of each connection follow.
        unsafe { socket::poll((&raw mut *polls).cast(), 3 + 2 * self.used) };
    }

    /// A place for another connection, and how many were ever taken with it.
    fn place(&mut self) -> Option<(&mut Connection, usize)> {
        let mut places = self.tables.connections.iter_mut().zip(1..);
        places.find(|(c, _)| c.client == NONE)
    }

    /// Takes a connection, and asks the agent for another that leads to the proxy.
    fn ask(&mut self) {
        let client = match socket::accept(self.listener) {
            EAGAIN | EINTR | ECONNABORTED => return,
            // Most likely there are no descriptors left, and the next is taken when a connection ends.
            error if error < 0 && self.tables.connections.iter().any(|c| c.client != NONE) => {
                self.is_full = true;
                return;
            }
            error if error < 0 => return self.end(),
            socket => socket as usize,
        };
        self.asking = client;
        if socket::send(self.agent, b"c") != 1 {
            self.end();
        }
    }

    /// Takes the agent's answer.
    fn hear(&mut self) {
        let server = match socket::hear(self.agent, Wait::No) {
            Word::Nothing => return,
            Word::Ended => return self.end(),
            Word::Said(server) => server,
        };
        let client = core::mem::replace(&mut self.asking, NONE);
        match (server, self.place()) {
            (Some(server), Some((connection, used))) if client != NONE => {
                (connection.client, connection.server) = (client, server);
                self.used = self.used.max(used);
            }
            (server, _) => {
                for descriptor in [client, server.unwrap_or(NONE)] {
                    if descriptor != NONE {
                        socket::close(descriptor);
                    }
                }
            }
        }
    }

    /// The agent does not answer any more: nobody else gets out.
    fn end(&mut self) {
        for descriptor in [&mut self.agent, &mut self.listener, &mut self.asking] {
            if *descriptor != NONE {
                socket::close(*descriptor);
            }
            *descriptor = NONE;
        }
    }

    fn signal(&self) -> Option<isize> {
        /// `struct signalfd_siginfo`, which begins with the signal's number.
        const SIZE: usize = 128;
        let mut info = [0_u32; SIZE / 4];
        // SAFETY: the room is live and as long as is said.
        let read = unsafe {
            let at = (&raw mut info) as usize;
            system(number::READ, [self.signals, at, SIZE, 0, 0])
        };
        // SAFETY: it is; the kernel has written to it.
        (read == SIZE as isize).then(|| unsafe { (&raw const info).cast::<u32>().read_volatile() } as isize)
    }
}

impl Connection {
    /// Passes on what there is, by what was found of both sides; says whether that was the last.
    fn serve(&mut self, client: i16, server: i16) -> bool {
        let (mut up, mut down) = (Passed::Nothing, Passed::Nothing);
        if client & !OUT | server & !IN != 0 {
            up = pass((self.client, self.server), &mut self.up);
        }
        if server & !OUT | client & !IN != 0 {
            down = pass((self.server, self.client), &mut self.down);
        }
        let is_done = self.up.is_told && self.down.is_told;
        // An end that is told of again and again and is none would keep this process busy.
        let is_gone = (client | server) & GONE != 0;
        let is_stuck = is_gone && up == Passed::Nothing && down == Passed::Nothing;
        is_done || is_stuck || up == Passed::Broken || down == Passed::Broken
    }

    fn close(&mut self) {
        for descriptor in [&mut self.client, &mut self.server] {
            socket::close(core::mem::replace(descriptor, NONE));
        }
        for flow in [&mut self.up, &mut self.down] {
            (flow.from, flow.to) = (0, 0);
            (flow.is_over, flow.is_told) = (false, false);
        }
    }
}

impl Flow {
    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn reads(&self) -> i16 {
        if self.is_empty() && !self.is_over { IN } else { 0 }
    }

    fn writes(&self) -> i16 {
        if self.is_empty() { 0 } else { OUT }
    }
}

/// Nothing is looked for where nothing is wanted: an end that is known would be told again and again.
fn want(descriptor: usize, wanted: i16) -> Poll {
    Poll {
        descriptor: if descriptor == NONE || wanted == 0 {
            -1
        } else {
            descriptor as i32
        },
        wanted,
        found: 0,
    }
}

/// Reads when everything read before is written, and writes.
fn pass((from, to): (usize, usize), flow: &mut Flow) -> Passed {
    let mut passed = Passed::Nothing;
    if flow.is_empty() && !flow.is_over {
        match socket::receive(from, &mut flow.room) {
            EAGAIN | EINTR => {}
            0 => flow.is_over = true,
            n if n > 0 => {
                (flow.from, flow.to) = (0, n as usize);
                passed = Passed::Something;
            }
            _ => return Passed::Broken,
        }
    }
    if !flow.is_empty() {
        match socket::send(to, flow.room.get(flow.from..flow.to).unwrap_or_default()) {
            EAGAIN | EINTR => {}
            n if n > 0 => {
                flow.from += n as usize;
                passed = Passed::Something;
            }
            // Nobody reads it any more; what comes the other way is none the worse for it.
            _ => (flow.from, flow.is_over) = (flow.to, true),
        }
    }
    if flow.is_over && flow.is_empty() && !flow.is_told {
        socket::end_writing(to);
        flow.is_told = true;
        passed = Passed::Something;
    }
    passed
}
