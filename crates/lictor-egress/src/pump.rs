//! Bytes from one stream to another, paid for before they are passed on.

use lictor_proto::egress::End;

use crate::meter::{Meter, Way};
use crate::stream::{Reader, Stream};

/// Buffers start small, since most connections are quiet, and double while they are filled.
const SMALL: usize = 8 * 1024;
const LARGE: usize = 256 * 1024;

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
    let mut buffer = vec![0; SMALL];
    loop {
        let n = from.read(&mut buffer).await.map_err(|_| sender_gone(way))?;
        if n == 0 {
            to.end_writing();
            return Ok(());
        }
        pass(&buffer[..n], to, meter, way).await?;
        if n == buffer.len() && n < LARGE {
            buffer.resize(n * 2, 0);
        }
    }
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
