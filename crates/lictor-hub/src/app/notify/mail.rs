//! Notifications as e-mail: plain text, over the SMTP server of the hub's configuration.

use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use rustls::pki_types::CertificateDer;

use crate::config::{SmtpSettings, SmtpTls};
use crate::store::DueNotice;

/// How long a delivery may take.
const WITHIN: Duration = Duration::from_secs(20);

/// Sends e-mail.
pub(super) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// Whether this is an address that mail can go to.
///
/// # Errors
/// Why not.
pub(super) fn check(address: &str) -> Result<Address, String> {
    address
        .parse::<Address>()
        .map_err(|e| format!("the e-mail address: {e}"))
}

impl Mailer {
    /// Over this server, which may have a certificate of `roots` besides those that this machine trusts; the password is
    /// read once.
    ///
    /// # Errors
    /// What of the settings cannot be used.
    pub(super) fn new(settings: &SmtpSettings, roots: &[CertificateDer<'_>]) -> Result<Self, String> {
        let from = settings
            .from
            .parse()
            .map_err(|e| format!("notify.smtp.from: {e}"))?;
        let tls = match settings.tls {
            SmtpTls::Starttls => Tls::Required(parameters(&settings.host, roots)?),
            SmtpTls::Tls => Tls::Wrapper(parameters(&settings.host, roots)?),
            SmtpTls::None => Tls::None,
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)
            .port(settings.port)
            .tls(tls)
            .timeout(Some(WITHIN));
        if let Some(file) = &settings.password_file {
            let password = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            transport = transport.credentials(Credentials::new(settings.username.clone(), password));
        }
        Ok(Self {
            transport: transport.build(),
            from,
        })
    }

    /// Sends it.
    ///
    /// # Errors
    /// Why it did not go out.
    pub(super) async fn send(&self, notice: &DueNotice) -> Result<(), String> {
        let (subject, text) = letter(notice);
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, check(&notice.target.address)?))
            .subject(subject)
            .message_id(Some(format!("<{}@{}>", notice.id, self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|e| e.to_string())?;
        let sent = tokio::time::timeout(WITHIN, self.transport.send(message)).await;
        match sent {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(chain(&e)),
            Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
        }
    }
}

/// With all its causes: that of a certificate is in one.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let next = e.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = e.source();
    }
    text
}

fn parameters(host: &str, roots: &[CertificateDer<'_>]) -> Result<TlsParameters, String> {
    let failed = |e: lettre::transport::smtp::Error| format!("notify.smtp: {e}");
    let mut parameters = TlsParameters::builder(host.to_owned());
    for root in roots {
        let root = Certificate::from_der(root.to_vec()).map_err(failed)?;
        parameters = parameters.add_root_certificate(root);
    }
    parameters.build().map_err(failed)
}

/// Subject and text. What is shown has names in it that came from others: nothing of it may steer a terminal or a reader.
fn letter(notice: &DueNotice) -> (String, String) {
    let body: serde_json::Value = serde_json::from_str(&notice.body).unwrap_or_default();
    let said = |name: &str| body["data"][name].as_str().map(plain);
    let about = said("job_id")
        .or_else(|| said("node"))
        .or_else(|| said("org"))
        .unwrap_or_default();
    let headline = match notice.event.as_str() {
        "approval.wanted" => "a job waits for approval",
        "release.wanted" => "a job waits to be released",
        "job.failed" => "a job did not succeed",
        "node.lost" => "a node is not heard of any more",
        "law.expiring" => "the law is about to expire",
        "law.expired" => "the law has expired: nothing new runs",
        "law.staling" => "the law is about to go stale",
        "law.stale" => "the law is stale: nothing new runs",
        _ => "a test of notifications",
    };
    let mut text = format!("Lictor: {headline}.\n\n");
    for (name, value) in body["data"].as_object().into_iter().flatten() {
        if name != "verify" {
            text += &format!(
                "{:<10} {}\n",
                plain(name),
                plain(value.as_str().unwrap_or_default())
            );
        }
    }
    text += "\nThis is what the hub says, and nothing that a node or an operator has signed.\n";
    if let Some(command) = said("verify") {
        text += &format!("To check it: {command}\n");
    }
    (format!("[lictor] {headline}: {about}"), text)
}

/// Without what would steer a reader: control, bidirectional and zero-width characters.
fn plain(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_who_reads_it() {
        assert_eq!(plain("a\r\nBcc: x\u{1b}[2J\u{202e}b"), "a??Bcc: x?[2J?b");
    }
}
