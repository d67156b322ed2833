//! One plain request and its answer, over a connection of its own.

use std::fmt::Write as _;

use lictor_proto::egress::End;
use lictor_trust::egress::Host;

use super::body::{Sink, copy};
use super::head::{self, Answer, Field, Framing, HeadError, Request, passed_on};
use crate::denial::Denial;
use crate::gate;
use crate::job::Attempt;
use crate::meter::{Meter, Way};
use crate::pump::pass;
use crate::stream::{Reader, Stream};

/// What was asked for.
pub(super) struct Asked {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) path: String,
}

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may follow.
    Next,
    /// It ends.
    Close,
}

/// The most answers that only say that a final one will come.
const INTERIM: usize = 16;

const BAD_GATEWAY: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nlictor-egress: bad_response\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 64\r\nConnection: close\r\n\r\n\
    lictor-egress: bad_response: the server's answer cannot be read\n";

/// Sends one request and passes its answer back. A denial has been recorded and is still to be told.
pub(super) async fn run(
    mut attempt: Attempt<'_>,
    client: &mut Reader<'_>,
    request: &Request,
    asked: &Asked,
) -> Result<After, Denial> {
    attempt.asks_for(&asked.host, asked.port);
    let ready = match write_request(request, asked) {
        Ok(head) => gate::pass(&mut attempt, &asked.host, asked.port)
            .await
            .map(|(l, s)| (head, l, s)),
        Err(what) => Err(Denial::bad(what)),
    };
    let (head, listed, server) = match ready {
        Ok(ready) => ready,
        Err(denial) => {
            attempt.deny(&denial).await;
            return Err(denial);
        }
    };
    let limit = attempt.job.limits.head_bytes as usize;
    let passage = attempt.allow(listed.rule).await?;
    let work = async {
        let exchange = Exchange {
            request,
            server: &server,
            limit,
            meter: &passage.meter,
        };
        match exchange.both_ways(client, &head).await {
            Ok(after) => (End::Done, after),
            Err(how) => (how, After::Close),
        }
    };
    Ok(passage.through(work).await.unwrap_or(After::Close))
}

/// The head that goes on: the request as it was understood.
pub(super) fn write_request(request: &Request, asked: &Asked) -> Result<String, &'static str> {
    let (fields, _) = passed_on(&request.fields)?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}",
        request.method, asked.path, asked.host
    );
    if asked.port != 80 {
        let _: std::fmt::Result = write!(head, ":{}", asked.port);
    }
    head.push_str("\r\n");
    write_fields(&mut head, &fields)?;
    match request.framing {
        Framing::Unsaid => {}
        Framing::Length(n) => {
            let _: std::fmt::Result = write!(head, "Content-Length: {n}\r\n");
        }
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    head.push_str("Via: 1.1 lictor-egress\r\nConnection: close\r\n\r\n");
    Ok(head)
}

fn write_fields(head: &mut String, fields: &[&Field]) -> Result<(), &'static str> {
    for (name, value) in fields {
        let value = std::str::from_utf8(value).map_err(|_| "a field is not UTF-8")?;
        let _: std::fmt::Result = write!(head, "{name}: {value}\r\n");
    }
    Ok(())
}

struct Exchange<'a> {
    request: &'a Request,
    server: &'a Stream,
    limit: usize,
    meter: &'a Meter<'a>,
}

impl Exchange<'_> {
    /// The request and the answer at once: a server may answer before it has read all, and a client may wait for an
    /// interim answer before it sends the rest.
    async fn both_ways(&self, client: &mut Reader<'_>, head: &str) -> Result<After, End> {
        let near = client.stream();
        let up = async {
            pass(head.as_bytes(), self.server, self.meter, Way::Up).await?;
            if self.request.framing == Framing::Unsaid {
                return Ok(());
            }
            let sink = Sink {
                to: self.server,
                meter: self.meter,
                way: Way::Up,
                chunks: true,
            };
            copy(client, self.request.framing, sink).await
        };
        let down = async {
            let answered = self.answer(near).await;
            if let Err(End::BadResponse | End::ServerGone) = answered
                && self.meter.down() == 0
            {
                // Nothing has been said yet, so this can be. The passage has ended; whether it is heard is no matter.
                let _: std::io::Result<()> = near.write_all(BAD_GATEWAY).await;
            }
            answered
        };
        tokio::pin!(up, down);
        let mut sent = false;
        loop {
            tokio::select! {
                answered = &mut down => {
                    let after = answered?;
                    // Half a request is still in the client's connection.
                    return Ok(if sent { after } else { After::Close });
                }
                up = &mut up, if !sent => match up {
                    Ok(()) => sent = true,
                    // It may have answered all the same, before it closed.
                    Err(End::ServerGone) => return (&mut down).await.map(|_| After::Close),
                    Err(how) => return Err(how),
                },
            }
        }
    }

    async fn answer(&self, near: &Stream) -> Result<After, End> {
        let mut server = Reader::new(self.server);
        for _ in 0..INTERIM {
            let head = head::read(&mut server, self.limit).await.map_err(|e| match e {
                HeadError::Broken(_) => End::BadResponse,
                HeadError::Gone => End::ServerGone,
            })?;
            let answer = head::answer(&head.ok_or(End::ServerGone)?).map_err(|_| End::BadResponse)?;
            match answer.code {
                // We never offered to speak anything else.
                101 => return Err(End::BadResponse),
                100..=199 if self.request.version == 0 => {}
                100..=199 => self.say(near, &answer, Framing::Unsaid, "").await?,
                200..=999 => return self.final_answer(near, &answer, &mut server).await,
                _ => return Err(End::BadResponse),
            }
        }
        Err(End::BadResponse)
    }

    async fn final_answer(
        &self,
        near: &Stream,
        answer: &Answer,
        server: &mut Reader<'_>,
    ) -> Result<After, End> {
        let bodyless = self.request.method == "HEAD" || matches!(answer.code, 204 | 304);
        let (_, asked_to_close) = passed_on(&self.request.fields).map_err(|_| End::BadRequest)?;
        let modern = self.request.version == 1;
        let delimited = bodyless
            || matches!(answer.framing, Framing::Length(_))
            || answer.framing == Framing::Chunked && modern;
        let after = match delimited && modern && !asked_to_close {
            true => After::Next,
            false => After::Close,
        };
        let connection = match after {
            After::Next => "Connection: keep-alive\r\n",
            After::Close => "Connection: close\r\n",
        };
        let framing = match answer.framing {
            Framing::Chunked if !modern => Framing::Unsaid,
            // These have no body, whatever they say; 304 and HEAD may say what it would have been.
            Framing::Length(_) | Framing::Chunked if answer.code == 204 => Framing::Unsaid,
            framing => framing,
        };
        self.say(near, answer, framing, connection).await?;
        if bodyless {
            return Ok(after);
        }
        let sink = Sink {
            to: near,
            meter: self.meter,
            way: Way::Down,
            chunks: modern,
        };
        copy(server, answer.framing, sink).await?;
        Ok(after)
    }

    /// Writes an answer's head as it was understood.
    async fn say(
        &self,
        near: &Stream,
        answer: &Answer,
        framing: Framing,
        connection: &str,
    ) -> Result<(), End> {
        let bad = |_| End::BadResponse;
        let (fields, _) = passed_on(&answer.fields).map_err(bad)?;
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.code, answer.phrase).into_bytes();
        for (name, value) in fields {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        match framing {
            Framing::Unsaid => {}
            Framing::Length(n) => head.extend_from_slice(format!("Content-Length: {n}\r\n").as_bytes()),
            Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        if answer.code >= 200 {
            head.extend_from_slice(format!("Via: 1.{} lictor-egress\r\n", answer.version).as_bytes());
        }
        head.extend_from_slice(connection.as_bytes());
        head.extend_from_slice(b"\r\n");
        pass(&head, near, self.meter, Way::Down).await
    }
}
