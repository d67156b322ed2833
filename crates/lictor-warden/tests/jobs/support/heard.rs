//! What a warden's feed says about one job.

use lictor_proto::Digest;
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, Finished};
use lictor_proto::frame::{Frame, FrameDecoder, FrameKind};
use lictor_warden::EventFeed;

use super::DEADLINE;

/// What a feed said about one job until it was finished.
#[derive(Default, Debug)]
pub struct Heard {
    pub order: Vec<&'static str>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub waiting_from: Option<u64>,
    pub finished: Option<Finished>,
}

impl Heard {
    pub fn take(&mut self, frames: &[u8]) {
        let mut decoder = FrameDecoder::default();
        decoder.push(frames);
        while let Some(Frame { kind, payload, .. }) = decoder.next_frame().unwrap() {
            match kind {
                FrameKind::Stdout => self.stdout.extend_from_slice(&payload),
                FrameKind::Stderr => self.stderr.extend_from_slice(&payload),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Listens until `job` has finished, or `stop` says enough.
pub async fn listen(feed: &mut EventFeed, wanted: Digest, stop: impl Fn(&Heard) -> bool) -> Heard {
    let mut heard = Heard::default();
    let all = async {
        loop {
            match feed.next().await.expect("the warden lives") {
                Message::Event(Event::Started { job, .. }) if job == wanted => heard.order.push("started"),
                Message::Output { job, frames, .. } if job == wanted => {
                    if heard.order.last() != Some(&"output") {
                        heard.order.push("output");
                    }
                    heard.take(&frames);
                }
                Message::Event(Event::OutputWaiting { job, from }) if job == wanted => {
                    heard.order.push("waiting");
                    heard.waiting_from = Some(from);
                }
                Message::Event(Event::Finished(f)) if f.job == wanted => {
                    heard.order.push("finished");
                    heard.finished = Some(*f);
                    return;
                }
                _ => {}
            }
            if stop(&heard) {
                return;
            }
        }
    };
    if tokio::time::timeout(DEADLINE, all).await.is_err() {
        panic!("nothing more came after {:?}", heard.order);
    }
    heard
}

pub async fn finished(feed: &mut EventFeed, job: Digest) -> (Heard, Finished) {
    let heard = listen(feed, job, |_| false).await;
    let finished = heard.finished.clone().expect("it finished");
    (heard, finished)
}
