//! ClientHellos whole, cut, and broken.

use super::*;

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).expect("short").to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), with_length(content)].concat()
}

fn name(host: &[u8]) -> Vec<u8> {
    extension(0, &with_length(&[vec![0], with_length(host)].concat()))
}

fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(with_length(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(with_length(extensions));
    let mut message = vec![1, 0];
    message.extend(with_length(&body));
    message
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [vec![22, 3, 1], with_length(fragment)].concat()
}

fn read(bytes: &[u8]) -> Progress {
    HelloReader::default().read(bytes)
}

fn sni(progress: &Progress) -> Option<&str> {
    match progress {
        Progress::Whole(hello, _) => hello.sni.as_ref().map(DnsName::as_str),
        _ => None,
    }
}

#[test]
fn a_name_is_read_from_one_record() {
    let bytes = record(&message(&name(b"Example.com")));
    let progress = read(&bytes);
    assert_eq!(sni(&progress), Some("example.com"));
    assert!(matches!(progress, Progress::Whole(h, n) if n == bytes.len() && !h.hides_name));
}

#[test]
fn a_name_is_read_however_the_message_is_cut() {
    let message = message(&[extension(51, &[9; 1200]), name(b"example.com")].concat());
    for size in [1, 2, 3, 4, 5, 7, 100, 1000, 2000] {
        let records: Vec<u8> = message.chunks(size).flat_map(record).collect();
        assert_eq!(sni(&read(&records)), Some("example.com"), "records of {size}");
        let mut reader = HelloReader::default();
        for end in 1..records.len() {
            assert_eq!(
                reader.read(&records[..end]),
                Progress::More,
                "{end} of {}",
                records.len()
            );
        }
        assert_eq!(sni(&reader.read(&records)), Some("example.com"));
    }
}

#[test]
fn what_comes_behind_it_is_left_alone() {
    let mut bytes = record(&message(&name(b"example.com")));
    let length = bytes.len();
    bytes.extend([23, 3, 3, 0, 1, 0]);
    assert!(matches!(read(&bytes), Progress::Whole(_, n) if n == length));
}

#[test]
fn a_hidden_name_is_seen() {
    for kind in [0xfe0d, 0xffce, 0xfe0a] {
        let bytes = record(&message(&[name(b"example.com"), extension(kind, &[0])].concat()));
        assert!(
            matches!(read(&bytes), Progress::Whole(h, _) if h.hides_name),
            "{kind:x}"
        );
    }
}

#[test]
fn no_name_is_no_name() {
    let bare = record(&message(&[]));
    assert!(matches!(read(&bare), Progress::Whole(h, _) if h.sni.is_none()));
}

#[test]
fn other_protocols_are_no_tls_from_their_first_bytes() {
    for other in [
        &b"SSH-2.0-x\r\n"[..],
        b"GET / HTTP/1.1\r\n",
        b"\x00",
        b"\x16\x02",
        b"\x16\x03\x05\x00\x10",
        b"\x80\x2e\x01\x03\x01",
    ] {
        assert_eq!(read(other), Progress::NotTls, "{other:?}");
    }
}

#[test]
fn what_two_readers_could_read_differently_is_broken() {
    let good = name(b"example.com");
    let twice = message(&[good.clone(), name(b"evil.example")].concat());
    let two_names = extension(
        0,
        &with_length(&[vec![0], with_length(b"a.b"), vec![0], with_length(b"c.d")].concat()),
    );
    let other_kind = extension(0, &with_length(&[vec![1], with_length(b"a.b")].concat()));
    let mut longer = message(&good);
    longer.push(0);
    let mut shorter = message(&good);
    *shorter.last_mut().expect("bytes") = 0;
    let mut cut = message(&good);
    cut[3] -= 1;
    for (what, message) in [
        ("a second name extension", twice),
        ("two names", message(&two_names)),
        ("a name of another kind", message(&other_kind)),
        ("an empty name extension", message(&extension(0, &[]))),
        ("an empty list", message(&extension(0, &[0, 0]))),
        ("bytes behind the message", longer),
        ("a NUL in the name", shorter),
        ("a shorter length", cut),
        ("a trailing dot", message(&name(b"example.com."))),
        ("an address", message(&name(b"127.0.0.1"))),
        ("an odd address", message(&name(b"0x7f.1"))),
        ("an empty name", message(&name(b""))),
        ("a NUL inside", message(&name(b"a.example\0.evil.com"))),
        ("not UTF-8", message(&name(b"\xff\xfe"))),
        (
            "another message first",
            [vec![2], message(&good)[1..].to_vec()].concat(),
        ),
    ] {
        assert!(matches!(read(&record(&message)), Progress::Broken(_)), "{what}");
    }
    let empty_record = [record(&message(&good)[..10]), vec![22, 3, 1, 0, 0]].concat();
    assert!(matches!(read(&empty_record), Progress::Broken(_)));
    let other_record = [record(&message(&good)[..10]), vec![23, 3, 3, 0, 1, 0]].concat();
    assert!(matches!(read(&other_record), Progress::Broken(_)));
}

#[test]
fn it_is_bounded_in_bytes_and_records() {
    assert!(matches!(read(&record(&[1, 1, 0, 0])), Progress::Broken(_)));
    assert!(matches!(read(&[22, 3, 1, 0x40, 1]), Progress::Broken(_)));
    let drops: Vec<u8> = (0..MAX_RAW)
        .flat_map(|i| record(&[if i == 0 { 1 } else { 0x10 * u8::from(i == 2) }]))
        .collect();
    assert!(matches!(read(&drops), Progress::Broken(_)));
}

proptest::proptest! {
    #[test]
    fn any_bytes_give_the_same_answer_however_they_come(bytes in proptest::collection::vec(0u8.., 0..200), cut in 0usize..200) {
        for bytes in [bytes.clone(), record(&bytes), record(&message(&bytes))] {
            let mut reader = HelloReader::default();
            let first = reader.read(&bytes[..cut.min(bytes.len())]);
            let second = if first == Progress::More { reader.read(&bytes) } else { first };
            let at_once = read(&bytes);
            if !matches!(second, Progress::More) && !matches!(at_once, Progress::Whole(..)) {
                assert_eq!(second, at_once);
            }
        }
    }
}
