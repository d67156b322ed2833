//! Bytes from one stream to another, paid for before they are passed on.
//!
//! Read and written in one step, as far as that goes; only what the other side does not take at once is kept, within
//! the room that there is ([`crate::room`]).

use std::cell::RefCell;
use std::io;

use lictor_proto::egress::End;

use crate::meter::{Meter, Way};
use crate::stream::{Reader, Stream};

thread_local! {
    /// What has been read and not written yet, within one step: nothing waits while it is in here, so one per thread
    /// does for all connections.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Passes bytes both ways until both sides are done.
pub(crate) async fn relay(client: &mut Reader<'_>, server: &mut Reader<'_>, meter: &Meter<'_>) -> End {
    let (near, far) = (client.stream(), server.stream());
    let up = async {
        pass(&client.held, far, meter, Way::Up).await?;
        client.held = bytes::BytesMut::new();
        carry(near, far, meter, Way::Up).await
    };
    let down = async {
        pass(&server.held, near, meter, Way::Down).await?;
        server.held = bytes::BytesMut::new();
        carry(far, near, meter, Way::Down).await
    };
    match tokio::try_join!(up, down) {
        Ok(_) => End::Done,
        Err(how) => how,
    }
}

/// Passes what is held; an error says how the passage ends.
pub(crate) async fn pass(bytes: &[u8], to: &Stream, meter: &Meter<'_>, way: Way) -> Result<(), End> {
    let granted = meter.pay(way, bytes.len());
    to.write_all(&bytes[..granted])
        .await
        .map_err(|_| receiver_gone(way))?;
    match granted == bytes.len() {
        true => Ok(()),
        false => Err(End::BytesLimit),
    }
}

/// Passes everything up to the end, and the end.
pub(crate) async fn carry(from: &Stream, to: &Stream, meter: &Meter<'_>, way: Way) -> Result<(), End> {
    loop {
        // A peer that is always ready must not keep the other connections' turn.
        tokio::task::coop::consume_budget().await;
        let piece = meter.room().piece();
        match step(from, to, meter, way, piece.len())? {
            Step::Moved { rest, may_go_on } => {
                to.write_all(&rest).await.map_err(|_| receiver_gone(way))?;
                if !may_go_on {
                    return Err(End::BytesLimit);
                }
            }
            Step::Nothing => {
                // Room is for bytes, not for waiting.
                drop(piece);
                from.readable().await.map_err(|_| sender_gone(way))?;
            }
            Step::End => {
                to.end_writing();
                return Ok(());
            }
        }
    }
}

/// What one read and one write have done.
enum Step {
    /// There was something; `rest` of it is still to be written.
    Moved { rest: Vec<u8>, may_go_on: bool },
    /// There is nothing yet.
    Nothing,
    /// There will be nothing more.
    End,
}

/// Reads what there is, at most `most` bytes, and writes what can be written at once.
fn step(from: &Stream, to: &Stream, meter: &Meter<'_>, way: Way, most: usize) -> Result<Step, End> {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < most {
            scratch.resize(most, 0);
        }
        let n = match from.try_read(&mut scratch[..most]) {
            Ok(0) => return Ok(Step::End),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Nothing),
            Err(_) => return Err(sender_gone(way)),
        };
        let granted = meter.pay(way, n);
        let written = match to.try_write(&scratch[..granted]) {
            Ok(written) => written,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(receiver_gone(way)),
        };
        Ok(Step::Moved {
            rest: scratch[written..granted].to_vec(),
            may_go_on: granted == n,
        })
    })
}

/// Who broke off, when what should be read can't be.
pub(crate) fn sender_gone(way: Way) -> End {
    match way {
        Way::Up => End::ClientGone,
        Way::Down => End::ServerGone,
    }
}

fn receiver_gone(way: Way) -> End {
    match way {
        Way::Up => End::ServerGone,
        Way::Down => End::ClientGone,
    }
}
