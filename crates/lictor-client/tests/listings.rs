//! Listings of a hub that never come to an end.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use lictor_client::{Hub, HubAddress};
use lictor_proto::Code;

/// Answers every request on this connection with an empty page; `next` makes the cursor of the n-th.
fn answer(stream: TcpStream, next: fn(u32) -> Option<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    for n in 0.. {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        let body = serde_json::json!({ "items": [], "next_cursor": next(n) }).to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
        if write!(stream, "{head} {}\r\n\r\n{body}", body.len()).is_err() {
            return;
        }
    }
}

/// What a client makes of such a hub's list of tokens: how many there are, or why it gives up.
fn listed(next: fn(u32) -> Option<String>) -> Result<usize, Code> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || answer(stream, next));
        }
    });
    let address = HubAddress {
        url,
        spki: None,
        link_url: None,
        link_spki: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let hub = Hub::new(&address, None).unwrap();
        hub.tokens().await.map(|t| t.len()).map_err(|e| e.code())
    })
}

#[test]
fn a_listing_without_an_end_is_given_up() {
    assert_eq!(listed(|n| (n < 3).then(|| n.to_string())), Ok(0), "four pages");
    let endless: [fn(u32) -> Option<String>; 3] = [
        |_| Some("itself".to_owned()),
        |n| Some((n % 2).to_string()),
        |n| Some(n.to_string()),
    ];
    for next in endless {
        assert_eq!(listed(next), Err(Code::LimitExceeded));
    }
}
