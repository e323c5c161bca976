//! The signing secret of an endpoint: a caller may bring one along, and rotate it. A secret that a rotation has replaced
//! signs beside the new one for a while, so that no receiver is locked out.

use std::{borrow::Cow, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use schemas::{Endpoint, Timestamp, endpoint::RetiringSecret};
use serde::Deserialize;
use service::{
    problem::Problem,
    secret::{self, Secret},
    vault::Vault,
};

use crate::check::Checker;

/// The seconds for which the previous secret signs, unless the caller says otherwise.
const OVERLAP_S: u32 = 24 * 3600;
/// The most seconds for which the previous secret signs.
const MAX_OVERLAP_S: u32 = 30 * 24 * 3600;
/// The most secrets before the current one that sign. Each is a signature more in the header of every webhook.
const RETIRING: usize = 3;

/// A signing secret that a caller brings along.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct GivenSecret(pub(super) Secret);

impl TryFrom<String> for GivenSecret {
    type Error = secret::WeakSecret;

    fn try_from(text: String) -> Result<Self, secret::WeakSecret> {
        secret::given(text).map(Self)
    }
}

impl JsonSchema for GivenSecret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GivenSecret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^whsec_([A-Za-z0-9+/]{4}){8,21}([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
            "examples": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        })
    }
}

/// The way in which an endpoint's secret is to be replaced.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretRotation {
    /// The seconds for which the previous secret signs as well: 86400 by default, 0 for not at all, at most 30 days.
    /// Secrets of earlier rotations sign no longer than that either.
    #[schemars(range(max = MAX_OVERLAP_S))]
    overlap_s: Option<u32>,
    /// The new secret, where one is brought along. Without it, a new one is made.
    secret: Option<GivenSecret>,
}

impl SecretRotation {
    /// Returns the new secret: the caller's, or one that is made.
    pub(crate) fn new_secret(&self) -> Secret {
        self.secret.as_ref().map_or_else(secret::mint, |given| given.0.clone())
    }

    /// Returns `endpoint` with `secret` as its secret. The secret before it goes on signing for a while.
    pub(crate) fn apply(
        &self,
        endpoint: &Endpoint,
        secret: &Secret,
        vault: &Vault,
        at: Timestamp,
    ) -> Result<Endpoint, Problem> {
        let overlap = self.overlap_s.unwrap_or(OVERLAP_S);
        let context = endpoint.id.to_string();
        let is_secret = |sealed| vault.open(&context, sealed).is_ok_and(|known| *known == *secret.expose().as_bytes());
        let mut checker = Checker::default();
        if overlap > MAX_OVERLAP_S {
            checker.wrong("overlap_s", format!("is {overlap}, must be 0 to {MAX_OVERLAP_S}"));
        }
        if is_secret(&endpoint.secret) {
            checker.wrong("secret", "is the endpoint's current secret: give another one, or none for a new one");
        }
        let until = at.plus(Duration::from_secs(overlap.into()));
        let previous = RetiringSecret { secret: endpoint.secret.clone(), expires_at: until };
        let earlier = endpoint
            .retiring_secrets
            .iter()
            .filter(|retiring| !is_secret(&retiring.secret))
            .map(|retiring| RetiringSecret { expires_at: retiring.expires_at.min(until), ..retiring.clone() });
        let retiring_secrets: Vec<RetiringSecret> =
            std::iter::once(previous).chain(earlier).filter(|retiring| retiring.expires_at > at).collect();
        if let Some(oldest) = retiring_secrets.get(RETIRING) {
            let until = oldest.expires_at;
            let reason = format!(
                "lets more than {RETIRING} earlier secrets sign: rotate again after {until}, or give 0, which ends all of them"
            );
            checker.wrong("overlap_s", reason);
        }
        checker.finish(Endpoint {
            secret: vault.seal(&context, secret.expose().as_bytes()),
            retiring_secrets,
            updated_at: at,
            revision: endpoint.revision + 1,
            ..endpoint.clone()
        })
    }
}

/// Returns `endpoint` without the secrets that no longer sign.
pub(crate) fn without_expired_secrets(endpoint: &Endpoint, at: Timestamp) -> Endpoint {
    let mut new = endpoint.clone();
    new.retiring_secrets.retain(|retiring| retiring.expires_at > at);
    if new.retiring_secrets.len() < endpoint.retiring_secrets.len() {
        new.updated_at = at;
        new.revision += 1;
    }
    new
}

#[cfg(test)]
mod tests {
    use schemas::{EndpointId, WorkspaceId};
    use serde_json::{Value, json};

    use super::*;
    use crate::{kinds::endpoint::NewEndpoint, rules::EndpointRules};

    const DAY_MS: i64 = 24 * 3600 * 1000;

    fn vault() -> Vault {
        Vault::from_hex(&"ab".repeat(32)).unwrap()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn endpoint() -> Endpoint {
        let new: NewEndpoint = serde_json::from_value(json!({"url": "https://a.example/", "events": ["*"]})).unwrap();
        let id = EndpointId::from_bits(1);
        let sealed = vault().seal(&id.to_string(), secret::mint().expose().as_bytes());
        let rules = EndpointRules { allow_http: false, allow_private: false };
        new.check(id, &WorkspaceId::default(), sealed, rules, &vault(), at(0)).unwrap()
    }

    fn rotated(endpoint: &Endpoint, rotation: Value, ms: i64) -> Result<(Endpoint, Secret), Vec<String>> {
        let rotation: SecretRotation = serde_json::from_value(rotation).unwrap();
        let secret = rotation.new_secret();
        let new = rotation.apply(endpoint, &secret, &vault(), at(ms));
        new.map(|new| (new, secret)).map_err(|problem| problem.errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn the_previous_secret_signs_for_a_day_unless_the_caller_says_otherwise() {
        let endpoint = endpoint();
        let (new, secret) = rotated(&endpoint, json!({}), 5).unwrap();
        assert_eq!(vault().open(&new.id.to_string(), &new.secret).unwrap().as_slice(), secret.expose().as_bytes());
        let previous = RetiringSecret { secret: endpoint.secret.clone(), expires_at: at(5 + DAY_MS) };
        assert_eq!(new.retiring_secrets, [previous]);
        assert_eq!(new.revision, 2);
        assert_eq!(without_expired_secrets(&new, at(4 + DAY_MS)), new);
        let expired = without_expired_secrets(&new, at(5 + DAY_MS));
        assert_eq!((expired.retiring_secrets.len(), expired.revision), (0, 3));
        assert_eq!(rotated(&new, json!({"overlap_s": 0}), 6).unwrap().0.retiring_secrets, []);
    }

    #[test]
    fn no_earlier_secret_signs_longer_than_the_last_rotation_says() {
        let (first, _) = rotated(&endpoint(), json!({}), 0).unwrap();
        let (second, _) = rotated(&first, json!({"overlap_s": 60}), 0).unwrap();
        let ends: Vec<Timestamp> = second.retiring_secrets.iter().map(|retiring| retiring.expires_at).collect();
        assert_eq!(ends, [at(60_000), at(60_000)]);
        let (third, _) = rotated(&second, json!({}), 1).unwrap();
        assert_eq!(third.retiring_secrets.len(), 3);
        assert_eq!(rotated(&third, json!({}), 2).unwrap_err(), ["overlap_s"]);
        assert!(rotated(&third, json!({"overlap_s": 0}), 2).is_ok());
        assert_eq!(rotated(&third, json!({}), 60_000).unwrap().0.retiring_secrets.len(), 2);
    }

    #[test]
    fn a_secret_can_be_brought_along_and_taken_back() {
        let brought = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (new, secret) = rotated(&endpoint(), json!({"secret": brought}), 0).unwrap();
        assert_eq!(secret.expose(), brought);
        assert_eq!(rotated(&new, json!({"secret": brought}), 1).unwrap_err(), ["secret"]);
        let (other, _) = rotated(&new, json!({}), 1).unwrap();
        let (back, _) = rotated(&other, json!({"secret": brought}), 2).unwrap();
        assert_eq!(back.retiring_secrets.len(), 2, "the one that is back is no longer an earlier one");
        for wrong in [json!("MfKQ"), json!("whsec_MfKQ"), json!(7), json!("whsec_not base64 at all, but long enough")] {
            let read = serde_json::from_value::<SecretRotation>(json!({"secret": wrong}));
            let error = read.unwrap_err().to_string();
            assert!(!error.contains("long enough"), "a secret is never told: {error}");
        }
        assert_eq!(rotated(&new, json!({"overlap_s": 2_592_001}), 1).unwrap_err(), ["overlap_s"]);
    }
}
