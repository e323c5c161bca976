//! The two keys of an installation: the admin key of the API, and the key that seals
//! its secrets. `up` makes and keeps them;
//! elsewhere their absence is an error that says what to set.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, bail};
use service::vault::Vault;

use crate::variables;

/// The variable that sets the admin key of the API.
pub(crate) const ADMIN_KEY: &str = "CLICKHOOK_ADMIN_KEY";
/// The variable that sets the key that seals secrets.
pub(crate) const INSTALLATION_KEY: &str = "CLICKHOOK_INSTALLATION_KEY";

/// A key that is kept in a file, and whether it was just made.
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) fresh: bool,
}

/// Returns the key in `path`, made by `make` where there is none yet. Only its owner can
/// read the file, and two processes that start at once agree on one key.
pub(crate) fn keep(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<Kept> {
    let key = make();
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            writeln!(file, "{key}")
                .and_then(|()| file.sync_all())
                .with_context(|| format!("write {}", path.display()))?;
            Ok(Kept { key, fresh: true })
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Kept { key: read(path)?, fresh: false }),
        Err(error) => Err(error).with_context(|| format!("create {}", path.display())),
    }
}

/// Reads the key in `path`.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let key = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let key = key.trim().to_owned();
    if key.is_empty() {
        bail!("{} is empty: delete it and start again to have a new key made", path.display());
    }
    Ok(key)
}

/// Makes an admin key of 256 random bits.
pub(crate) fn mint_admin_key() -> String {
    format!("chk_{}", hex::encode(rand::random::<[u8; 32]>()))
}

/// Returns the vault of the installation key in the environment.
pub(crate) fn vault_from_env() -> anyhow::Result<Vault> {
    let Some(key) = variables::get(INSTALLATION_KEY)? else {
        bail!(
            "{INSTALLATION_KEY} is not set: endpoint secrets are sealed under it. Set it, the same for every process, to the \
             output of `openssl rand -hex 32`"
        );
    };
    Ok(Vault::from_hex(&key)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.key");
        let first = keep(&path, mint_admin_key).unwrap();
        let second = keep(&path, mint_admin_key).unwrap();
        assert!(first.fresh && !second.fresh);
        assert_eq!(first.key, second.key);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
