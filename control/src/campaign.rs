//! Campaigns as callers write them.

use schemars::JsonSchema;
use schemas::{
    Campaign, CampaignId, Timestamp, WorkspaceId,
    campaign::{Goal, MILESTONES},
};
use serde::Deserialize;
use service::problem::Problem;

use crate::check::{Checker, Patch};

/// As long as links may name it.
const NAME_CHARS: usize = 128;
const MOST_MILESTONES: usize = 50;
/// The largest number that every JSON reader understands (2^53 - 1).
const LARGEST: u64 = (1 << 53) - 1;

/// A campaign that someone wants.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCampaign {
    /// What links name it by; unique in the workspace.
    name: String,
    /// When it begins.
    starts_at: Option<Timestamp>,
    /// When it ends.
    ends_at: Option<Timestamp>,
    /// What it is to reach.
    goal: Option<Goal>,
    /// The clicks at which it has something to tell, in ascending order: 100, 500,
    /// 1000, 5000 and 10000 unless told otherwise, at most 50.
    milestones: Option<Vec<u64>>,
}

/// What someone wants changed of a campaign: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CampaignPatch {
    name: Patch<String>,
    starts_at: Patch<Timestamp>,
    ends_at: Patch<Timestamp>,
    goal: Patch<Goal>,
    milestones: Patch<Vec<u64>>,
}

impl NewCampaign {
    /// The campaign, checked.
    pub(crate) fn check(self, workspace: &WorkspaceId, at: Timestamp) -> Result<Campaign, Problem> {
        let campaign = Campaign {
            id: CampaignId::mint(),
            workspace: workspace.clone(),
            name: self.name,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            goal: self.goal,
            milestones: self.milestones.unwrap_or_else(|| MILESTONES.to_vec()),
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        let mut checker = Checker::default();
        check(&campaign, &mut checker);
        checker.finish(campaign)
    }
}

impl CampaignPatch {
    /// `campaign` with the patch applied, checked; its revision is the next one.
    pub(crate) fn apply(self, campaign: &Campaign, at: Timestamp) -> Result<Campaign, Problem> {
        let mut checker = Checker::default();
        let mut new = campaign.clone();
        self.name.apply_required(&mut new.name, "name", &mut checker);
        self.starts_at.apply(&mut new.starts_at);
        self.ends_at.apply(&mut new.ends_at);
        self.goal.apply(&mut new.goal);
        self.milestones.apply_or(&mut new.milestones, MILESTONES.to_vec());
        check(&new, &mut checker);
        if new != *campaign {
            new.updated_at = at;
            new.revision += 1;
        }
        checker.finish(new)
    }
}

fn check(campaign: &Campaign, checker: &mut Checker) {
    checker.text("name", &campaign.name, NAME_CHARS);
    if let (Some(start), Some(end)) = (campaign.starts_at, campaign.ends_at)
        && start >= end
    {
        checker.wrong("ends_at", "must be after starts_at");
    }
    let goal = match campaign.goal {
        None => None,
        Some(Goal::Clicks(n)) => Some(("goal.clicks", n)),
        Some(Goal::Conversions(n)) => Some(("goal.conversions", n)),
    };
    if let Some((field, n)) = goal
        && !(1..=LARGEST).contains(&n)
    {
        checker.wrong(field, format!("is {n}, must be 1 to {LARGEST}"));
    }
    let milestones = &campaign.milestones;
    if milestones.len() > MOST_MILESTONES {
        checker.wrong("milestones", format!("has {}, at most {MOST_MILESTONES} are allowed", milestones.len()));
    }
    let mut above = 0;
    for (index, milestone) in milestones.iter().enumerate() {
        if *milestone <= above || *milestone > LARGEST {
            let reason = format!("is {milestone}, must be above {above} and at most {LARGEST}: they ascend");
            checker.wrong(format!("milestones[{index}]"), reason);
            return;
        }
        above = *milestone;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn new(body: Value) -> Result<Campaign, Problem> {
        let new: NewCampaign = serde_json::from_value(body).unwrap();
        new.check(&WorkspaceId::default(), Timestamp::from_millis(0))
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let many: Vec<u64> = (1..52).collect();
        for (field, value, named) in [
            ("name", json!(""), "name"),
            ("goal", json!({"clicks": 0}), "goal.clicks"),
            ("goal", json!({"conversions": u64::MAX}), "goal.conversions"),
            ("milestones", json!([0, 1]), "milestones[0]"),
            ("milestones", json!([5, 5]), "milestones[1]"),
            ("milestones", json!([5, 9, 7, 1]), "milestones[2]"),
            ("milestones", json!(many), "milestones"),
        ] {
            let mut body = json!({"name": "a"});
            body[field] = value;
            let problem = new(body.clone()).unwrap_err();
            assert_eq!((problem.errors.len(), problem.errors[0].field.as_str()), (1, named), "{body}");
        }
        let backwards = json!({"name": "a", "starts_at": "2026-02-01T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"});
        assert_eq!(new(backwards).unwrap_err().errors[0].field, "ends_at");
    }

    #[test]
    fn milestones_are_the_usual_ones_unless_chosen() {
        assert_eq!(new(json!({"name": "a"})).unwrap().milestones, MILESTONES);
        let mut campaign = new(json!({"name": "a", "milestones": []})).unwrap();
        assert_eq!(campaign.milestones, [0_u64; 0]);
        let patch: CampaignPatch = serde_json::from_value(json!({"milestones": null, "goal": {"clicks": 5}})).unwrap();
        campaign = patch.apply(&campaign, Timestamp::from_millis(5)).unwrap();
        assert_eq!((campaign.milestones.len(), campaign.goal, campaign.revision), (5, Some(Goal::Clicks(5)), 2));
    }
}
