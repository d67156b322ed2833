//! The hub's two keys: made on the first start, kept under `tls/`.

use std::io::Write as _;
use std::path::Path;

use lictor_link::cert::{Identity, WebPem, generate_web};
use lictor_link::tls::HubTls;
use lictor_proto::Digest;
use lictor_trust::{SecretKey, keyfile};

use crate::hub::StartError;

/// Both faces of the port, and what others pin.
pub(crate) struct Keys {
    pub(crate) tls: HubTls,
    /// SPKI digest of the link key, which nodes pin.
    pub(crate) link_spki: Digest,
    /// SPKI digest of the key that people's programs pin.
    pub(crate) web_spki: Digest,
}

/// Reads the keys in `dir`, or makes them.
pub(crate) fn open(dir: &Path, names: &[String]) -> Result<Keys, StartError> {
    let failed =
        |what: &Path, e: &dyn std::fmt::Display| StartError::Keys(format!("{}: {e}", what.display()));
    std::fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
    let link_path = dir.join("link.key");
    if !link_path.exists() {
        let key = SecretKey::generate().map_err(|e| failed(&link_path, &e))?;
        keyfile::store(&link_path, &key, None).map_err(|e| failed(&link_path, &e))?;
    }
    let key = keyfile::load(&link_path, None).map_err(|e| failed(&link_path, &e))?;
    let link = Identity::link(&key.seed()).map_err(|e| failed(&link_path, &e))?;
    let (cert_path, key_path) = (dir.join("web.crt"), dir.join("web.key"));
    if !(cert_path.exists() && key_path.exists()) {
        let pem = generate_web(names).map_err(|e| failed(&cert_path, &e))?;
        write_private(&key_path, &pem.key).map_err(|e| failed(&key_path, &e))?;
        write_private(&cert_path, &pem.certificate).map_err(|e| failed(&cert_path, &e))?;
    }
    let pem = WebPem {
        certificate: std::fs::read_to_string(&cert_path).map_err(|e| failed(&cert_path, &e))?,
        key: std::fs::read_to_string(&key_path).map_err(|e| failed(&key_path, &e))?,
    };
    let web = Identity::from_pem(&pem).map_err(|e| failed(&cert_path, &e))?;
    let link_spki = link.spki().map_err(|e| failed(&link_path, &e))?;
    let web_spki = web.spki().map_err(|e| failed(&cert_path, &e))?;
    let tls = HubTls::new(link, web).map_err(|e| failed(dir, &e))?;
    Ok(Keys {
        tls,
        link_spki,
        web_spki,
    })
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
