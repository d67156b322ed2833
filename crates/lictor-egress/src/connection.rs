//! One connection from a job: what it speaks, and the tunnel that SOCKS and CONNECT share.

use lictor_proto::egress::Protocol;
use lictor_trust::egress::{Host, Listed, Speech};

use crate::denial::Denial;
use crate::job::{Attempt, Job};
use crate::stream::{Reader, Stream};
use crate::{gate, http, pump, socks, tls};

/// Serves a connection to its end.
pub(crate) async fn serve(job: &Job, stream: &Stream) {
    let mut client = Reader::new(stream);
    let heard = job.step("nothing was asked", client.more()).await;
    if !matches!(heard, Ok(Ok(1..))) {
        // It counts all the same: otherwise connecting would be free, without end.
        let denial = heard.err().unwrap_or_else(|| Denial::bad("nothing was asked"));
        return job.attempt(Protocol::Unknown).deny(&denial).await;
    }
    match client.held[0] {
        5 => socks::serve(job, &mut client).await,
        b'A'..=b'Z' => http::serve(job, &mut client).await,
        first => {
            let detail = match first {
                4 => "SOCKS4 is not served",
                0x16 => "TLS was spoken to the proxy itself",
                _ => "this is neither HTTP nor SOCKS5",
            };
            job.attempt(Protocol::Unknown).deny(&Denial::bad(detail)).await;
        }
    }
}

/// A tunnel that may be made, before its client has been told.
pub(crate) struct Tunnel<'j> {
    attempt: Attempt<'j>,
    host: Host,
    port: u16,
    listed: Listed,
    server: Stream,
}

impl<'j> Tunnel<'j> {
    /// Through the gate, or not: then that is recorded, and the client is still to be told.
    pub(crate) async fn open(mut attempt: Attempt<'j>, host: Host, port: u16) -> Result<Self, Denial> {
        match gate::pass(&mut attempt, &host, port).await {
            Ok((listed, server)) => Ok(Self {
                attempt,
                host,
                port,
                listed,
                server,
            }),
            Err(denial) => {
                attempt.deny(&denial).await;
                Err(denial)
            }
        }
    }

    /// Tells the client that it is open, looks at what it says first, and passes bytes to the end.
    pub(crate) async fn run(mut self, client: &mut Reader<'_>, greeting: &[u8]) {
        let job = self.attempt.job;
        let greeted = job
            .step("the client does not read", client.stream().write_all(greeting))
            .await;
        let seen = match greeted {
            Ok(Ok(())) => self.look(client).await,
            Ok(Err(_)) => Err(Denial::gone()),
            Err(denial) => Err(denial),
        };
        let hello = match seen {
            Ok(hello) => hello,
            Err(denial) => {
                self.attempt.deny(&denial).await;
                return tls::say_denied(job, client).await;
            }
        };
        let Ok(passage) = self.attempt.allow(self.listed.rule).await else {
            return;
        };
        let server = &self.server;
        let meter = &passage.meter;
        let work = async {
            let mut server = Reader::new(server);
            if let Some(hello) = hello
                && let Err(how) = tls::settle(&hello, job, client, &mut server, meter).await
            {
                return (how, ());
            }
            (pump::relay(client, &mut server, meter).await, ())
        };
        passage.through(work).await;
    }

    /// What the client says first, where that has to be TLS.
    async fn look(&mut self, client: &mut Reader<'_>) -> Result<Option<tls::Seen>, Denial> {
        if self.listed.speech == Speech::Plain {
            return Ok(None);
        }
        let asked = tls::Asked {
            host: &self.host,
            port: self.port,
        };
        tls::look(&mut self.attempt, client, &asked).await
    }
}
