//! Secret keys on disk: PKCS#8 PEM (RFC 5958, RFC 8410), readable by their owner only.
//!
//! With a passphrase the file is encrypted with PBES2 (RFC 8018): scrypt and AES-256-CBC. A file is written
//! whole or not at all, and never over another.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use pkcs8::der::pem::PemLabel as _;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::keys::{KeyError, SecretKey};

/// More than any key file has.
const LIMIT: u64 = 16 * 1024;
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// Why a key file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system said no.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// Others than the owner may read or write it.
    #[error("{} may be read by others (mode {mode:o}); make it 600", .0.display(), mode = .1)]
    Exposed(PathBuf, u32),
    /// There is a file of that name already.
    #[error("{} exists already; a key is never overwritten", .0.display())]
    Exists(PathBuf),
    /// It is encrypted and no passphrase was given.
    #[error("{} is encrypted and needs its passphrase", .0.display())]
    PassphraseNeeded(PathBuf),
    /// It cannot be decrypted with this passphrase.
    #[error("{} cannot be decrypted: wrong passphrase, or the file is damaged", .0.display())]
    WrongPassphrase(PathBuf),
    /// Not an Ed25519 key in PKCS#8 PEM.
    #[error("{} holds no Ed25519 key in PKCS#8 PEM form", .0.display())]
    Malformed(PathBuf),
    /// The system gave no random bytes, or the encryption failed.
    #[error("the key could not be encrypted")]
    Encrypt(#[source] Option<KeyError>),
}

/// Reads a key. A passphrase given for a file that is not encrypted is ignored.
///
/// # Errors
/// When the file is missing, exposed to others, damaged, or its passphrase is missing or wrong.
pub fn load(path: &Path, passphrase: Option<&str>) -> Result<SecretKey, KeyFileError> {
    let pem = read(path)?;
    let key = if pem.trim_start().starts_with(ENCRYPTED) {
        let passphrase = passphrase.ok_or_else(|| KeyFileError::PassphraseNeeded(path.into()))?;
        SigningKey::from_pkcs8_encrypted_pem(&pem, passphrase)
            .map_err(|_| KeyFileError::WrongPassphrase(path.into()))?
    } else {
        SigningKey::from_pkcs8_pem(&pem).map_err(|_| KeyFileError::Malformed(path.into()))?
    };
    Ok(SecretKey::from_signing_key(key))
}

/// Whether the key at `path` needs a passphrase.
///
/// # Errors
/// When the file is missing or exposed to others.
pub fn is_encrypted(path: &Path) -> Result<bool, KeyFileError> {
    Ok(read(path)?.trim_start().starts_with(ENCRYPTED))
}

/// Writes a key to a new file of mode 0600, encrypted when a passphrase is given.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn store(path: &Path, key: &SecretKey, passphrase: Option<&str>) -> Result<(), KeyFileError> {
    let failed = |_: pkcs8::Error| KeyFileError::Encrypt(None);
    // Without the public half (version 1 of the format): OpenSSL 3.0 reads no other.
    let bytes = KeypairBytes {
        secret_key: *key.seed(),
        public_key: None,
    };
    let plain = bytes.to_pkcs8_der().map_err(failed)?;
    let (label, document) = match passphrase {
        None => (PrivateKeyInfoRef::PEM_LABEL, plain),
        Some(passphrase) => {
            let info =
                PrivateKeyInfoRef::try_from(plain.as_bytes()).map_err(|_| KeyFileError::Encrypt(None))?;
            let encrypted = info.encrypt_with_params(cipher()?, passphrase).map_err(failed)?;
            (EncryptedPrivateKeyInfoRef::PEM_LABEL, encrypted)
        }
    };
    let pem = document
        .to_pem(label, LineEnding::LF)
        .map_err(|_| KeyFileError::Encrypt(None))?;
    create(path, pem.as_bytes())
}

/// scrypt, then AES-256-CBC; fresh salt and IV. The cost is that of N = 2^17 with p = 1, spread over rounds of
/// 16 MiB, because OpenSSL refuses to read what needs more than 32.
fn cipher() -> Result<pbes2::Parameters, KeyFileError> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|e| KeyFileError::Encrypt(Some(KeyError::Random(e))))?;
    let (salt, iv) = random.split_at(16);
    let iv: [u8; 16] = iv.try_into().map_err(|_| KeyFileError::Encrypt(None))?;
    let cost = scrypt::Params::new(14, 8, 5).map_err(|_| KeyFileError::Encrypt(None))?;
    pbes2::Parameters::generate_scrypt_aes256cbc(cost, salt, iv).map_err(|_| KeyFileError::Encrypt(None))
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let io = |e| KeyFileError::Io(path.into(), e);
    let file = File::open(path).map_err(io)?;
    check_mode(path, &file)?;
    // Room for the whole at once, so that no copy stays behind where a growing buffer was.
    let mut text = Zeroizing::new(String::with_capacity(LIMIT as usize + 1));
    match file.take(LIMIT + 1).read_to_string(&mut text) {
        Ok(n) if n as u64 > LIMIT => Err(KeyFileError::Malformed(path.into())),
        Ok(_) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(KeyFileError::Malformed(path.into())),
        Err(e) => Err(io(e)),
    }
}

#[cfg(unix)]
fn check_mode(path: &Path, file: &File) -> Result<(), KeyFileError> {
    use std::os::unix::fs::PermissionsExt as _;
    let meta = file.metadata().map_err(|e| KeyFileError::Io(path.into(), e))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed(path.into(), mode));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: &File) -> Result<(), KeyFileError> {
    // Elsewhere the directory's access list decides, which the profile directory sets to the user alone.
    Ok(())
}

/// Writes `bytes` to a file beside `path`, syncs it, and gives it its name only if that is free.
fn create(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    let io = |e| KeyFileError::Io(path.into(), e);
    let mut nonce = [0u8; 8];
    getrandom::fill(&mut nonce).map_err(|e| KeyFileError::Encrypt(Some(KeyError::Random(e))))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.tmp", u64::from_le_bytes(nonce)));
    let temporary = path.with_file_name(name);

    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary).map_err(io)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    // A hard link fails where a rename would replace.
    let named = written.and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match named {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(KeyFileError::Exists(path.into())),
        other => other.and(removed).and_then(|()| sync_parent(path)).map_err(io),
    }
}

#[cfg(unix)]
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_parent(_: &Path) -> io::Result<()> {
    Ok(()) // a directory cannot be opened for syncing there
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[5; 32])
    }

    #[test]
    fn a_plain_key_round_trips_and_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice.pem");
        store(&path, &key(), None).unwrap();
        assert_eq!(load(&path, None).unwrap().id(), key().id());
        assert!(!is_encrypted(&path).unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(matches!(load(&path, None), Err(KeyFileError::Exposed(_, 0o640))));
        }
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file stays behind");
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.pem");
        store(&path, &key(), Some("correct horse")).unwrap();
        assert!(is_encrypted(&path).unwrap());
        assert_eq!(load(&path, Some("correct horse")).unwrap().id(), key().id());
        assert!(matches!(
            load(&path, None),
            Err(KeyFileError::PassphraseNeeded(_))
        ));
        assert!(matches!(
            load(&path, Some("battery")),
            Err(KeyFileError::WrongPassphrase(_))
        ));
    }

    /// A key that this code encrypted once: the format stays readable.
    #[test]
    fn an_encrypted_key_of_today_opens_tomorrow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.pem");
        create(&path, include_bytes!("../tests/support/encrypted.pem")).unwrap();
        assert_eq!(load(&path, Some("correct horse")).unwrap().id(), key().id());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.pem");
        store(&path, &key(), None).unwrap();
        let other = SecretKey::from_seed(&[6; 32]);
        assert!(matches!(store(&path, &other, None), Err(KeyFileError::Exists(_))));
        assert_eq!(load(&path, None).unwrap().id(), key().id());
    }

    #[test]
    fn junk_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        for junk in [
            &b""[..],
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            b"\xff\xfe",
        ] {
            let path = dir.path().join("junk.pem");
            create(&path, junk).unwrap();
            assert!(matches!(load(&path, None), Err(KeyFileError::Malformed(_))));
            fs::remove_file(&path).unwrap();
        }
    }
}
