//! The secrets that sign an endpoint's webhooks: the current one, and beside it, for a while,
//! those that a rotation has replaced.

use schemas::{Endpoint, SealedSecret, Timestamp};
use service::{secret::Secret, vault::Vault};

use super::sign::Signer;

/// The signers of an endpoint.
pub(super) struct Signers {
    current: Signer,
    /// The signers of replaced secrets, the latest first.
    retiring: Vec<RetiringSigner>,
}

struct RetiringSigner {
    signer: Signer,
    expires_at: Timestamp,
}

/// The signatures of one request.
pub(super) struct Signatures {
    /// The value of `webhook-signature`: a signature for each secret, the newest first.
    pub standard: String,
    /// The value of `X-Webhook-Signature`, which has room for one: that of the oldest secret, so
    /// that a receiver that knows no other goes on verifying until the rotation is over.
    pub simple: String,
}

impl Signers {
    /// Opens the secrets of an endpoint that still sign at `now`.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub(super) fn of(endpoint: &Endpoint, vault: &Vault, now: Timestamp) -> Result<Self, String> {
        let context = endpoint.id.to_string();
        let retiring = endpoint.retiring_secrets.iter().filter(|retiring| retiring.expires_at > now);
        let retiring = retiring.map(|retiring| {
            let signer = signer(&context, &retiring.secret, vault)?;
            Ok(RetiringSigner { signer, expires_at: retiring.expires_at })
        });
        Ok(Self {
            retiring: retiring.collect::<Result<_, String>>()?,
            current: signer(&context, &endpoint.secret, vault)?,
        })
    }

    /// Signs a body that is sent at `at`.
    pub(super) fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> Signatures {
        let retiring = self.retiring.iter().filter(|retiring| retiring.expires_at > at);
        let signing: Vec<&Signer> =
            std::iter::once(&self.current).chain(retiring.map(|retiring| &retiring.signer)).collect();
        let standard: Vec<String> = signing.iter().map(|signer| signer.standard(id, at.as_secs(), body)).collect();
        let oldest = signing.last().copied().unwrap_or(&self.current);
        Signatures { standard: standard.join(" "), simple: oldest.simple(body) }
    }
}

fn signer(context: &str, sealed: &SealedSecret, vault: &Vault) -> Result<Signer, String> {
    let secret = vault.open(context, sealed).map_err(|error| format!("its secret cannot be opened: {error}"))?;
    let secret = String::from_utf8(secret.to_vec()).map_err(|_| "its secret is not text".to_owned())?;
    Signer::new(&Secret::new(secret)).map_err(|error| format!("its secret is {error}"))
}

#[cfg(test)]
mod tests {
    use service::secret;

    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_770_301_425_000);

    fn after(ms: i64) -> Timestamp {
        Timestamp::from_millis(AT.as_millis() + ms)
    }

    #[test]
    fn a_replaced_secret_signs_beside_the_new_one_until_it_expires() {
        let [new, old, older] = [(), (), ()].map(|()| Signer::new(&secret::mint()).unwrap());
        let retiring = |signer: &Signer, ms| RetiringSigner { signer: signer.clone(), expires_at: after(ms) };
        let signers = Signers { current: new.clone(), retiring: vec![retiring(&old, 2_000), retiring(&older, 1_000)] };
        for (ms, signing) in [(0, vec![&new, &old, &older]), (1_000, vec![&new, &old]), (2_000, vec![&new])] {
            let at = after(ms);
            let Signatures { standard, simple } = signers.sign("evt_1", at, b"{}");
            let expected: Vec<String> =
                signing.iter().map(|signer| signer.standard("evt_1", at.as_secs(), b"{}")).collect();
            assert_eq!(standard, expected.join(" "), "after {ms} ms");
            assert_eq!(simple, signing.last().unwrap().simple(b"{}"), "after {ms} ms");
        }
    }
}
