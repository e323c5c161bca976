//! Campaigns. Links name a campaign by its name, so the name is unique in the workspace, and a new one is written to the
//! links (`leading/renames.rs`). Until that is done, the campaign has both names.

use bus::KeyUses;
use schemars::JsonSchema;
use schemas::{
    Campaign, CampaignId, Scope, Timestamp, Topic, WorkspaceId,
    audit::AuditedKind,
    campaign::{AddedMilestone, Goal, MILESTONES},
    conversion::Amount,
    fired::{FiredSubject, Milestone},
};
use serde::Deserialize;
use service::problem::Problem;

use crate::{
    caller::Caller,
    check::{Checker, Patch},
    kinds::resource::{CreateContext, Created, Resource},
    rules::ApiRules,
    state::{
        draft::{Draft, EntityKind},
        entity::{Entity, workspace_entity},
        links::LinkLabel,
        quotas::Quota,
    },
};

/// The most characters of a name, which is also the limit of a link's `campaign`.
const NAME_CHARS: usize = 128;
const MAX_MILESTONES: usize = 50;
/// The largest number that every JSON reader understands (2^53 - 1).
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// A campaign to be created.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCampaign {
    /// The name by which links refer to the campaign; unique in the workspace.
    name: String,
    /// The moment at which the campaign begins.
    starts_at: Option<Timestamp>,
    /// The moment at which the campaign ends.
    ends_at: Option<Timestamp>,
    /// The goal of the campaign.
    goal: Option<Goal>,
    /// The numbers of clicks at which the campaign reports progress, in ascending order, at most 50. The default is
    /// 100, 500, 1000, 5000 and 10000.
    milestones: Option<Vec<u64>>,
    /// The numbers of conversions at which the campaign reports progress, in ascending order, at most 50.
    conversion_milestones: Option<Vec<u64>>,
    /// The sums of conversions' worth at which the campaign reports progress, at most 50.
    revenue_milestones: Option<Vec<Amount>>,
    /// Whether milestones are told that clicks from before the campaign's creation have reached; `skip` by default.
    past_milestones: Option<PastMilestones>,
}

/// The treatment of milestones that were reached before they were added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PastMilestones {
    /// They are not told.
    #[default]
    Skip,
    /// They are told at once.
    Tell,
}

impl PastMilestones {
    /// Returns the time from which a milestone that is added at `at` is told.
    const fn since(self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Skip => Some(at),
            Self::Tell => None,
        }
    }
}

/// The changes of a campaign: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CampaignPatch {
    name: Patch<String>,
    starts_at: Patch<Timestamp>,
    ends_at: Patch<Timestamp>,
    goal: Patch<Goal>,
    milestones: Patch<Vec<u64>>,
    conversion_milestones: Patch<Vec<u64>>,
    revenue_milestones: Patch<Vec<Amount>>,
    /// Whether milestones that this patch adds are told if they have been reached already; `skip` by default.
    past_milestones: Option<PastMilestones>,
}

/// Returns `campaign` after its name was written to all links. That is no new version, since callers have asked for
/// nothing.
pub(crate) fn renamed(campaign: &Campaign) -> Campaign {
    Campaign { renamed_from: None, ..campaign.clone() }
}

/// The unique key of a campaign: its name in its workspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CampaignName(WorkspaceId, String);

/// Returns the unique key of the campaign of this name in the workspace.
pub(crate) fn campaign_name(workspace: WorkspaceId, name: &str) -> CampaignName {
    CampaignName(workspace, name.to_owned())
}

impl Entity for Campaign {
    workspace_entity!(CampaignId, "campaign", Topic::Campaigns);

    type UniqueKey = CampaignName;

    fn fired_subject(&self) -> Option<FiredSubject> {
        Some(FiredSubject::Campaign(self.id))
    }

    fn unique_keys(&self) -> Vec<CampaignName> {
        let names = std::iter::once(&self.name).chain(&self.renamed_from);
        names.map(|name| CampaignName(self.workspace.clone(), name.clone())).collect()
    }

    fn conflict(CampaignName(_, name): &CampaignName, owner: &CampaignId) -> Problem {
        Problem::conflict("name", format!("`{name}` is the name of {owner} already: choose another"))
    }
}

impl EntityKind for Campaign {
    const QUOTA: Option<Quota> = Some(Quota::Campaigns);
    const AUDITED: AuditedKind = AuditedKind::Campaign;

    /// Gives up the old name at once where no link has it.
    fn normalise(&mut self, _: Option<&Self>, draft: &Draft<'_>) -> Result<(), Problem> {
        let is_named = |name: &String| draft.has_labelled(&self.workspace, &LinkLabel::Campaign(name.clone()));
        if self.renamed_from.as_ref().is_some_and(|name| !is_named(name)) {
            self.renamed_from = None;
        }
        Ok(())
    }
}

impl Resource for Campaign {
    const PATH: &'static str = "/v1/campaigns";
    const SCOPE: Scope = Scope::Links;

    type New = NewCampaign;
    type Patch = CampaignPatch;
    type View<'a> = &'a Self;

    fn create(new: NewCampaign, context: &CreateContext<'_>) -> Result<Created<Self>, Problem> {
        new.check(&context.caller.workspace, context.at).map(Created::from)
    }

    fn patched(&self, patch: CampaignPatch, _: &Caller, _: &ApiRules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, at)
    }

    fn view<'a>(&'a self, _: &KeyUses, _: Option<&'a str>) -> &'a Self {
        self
    }
}

impl NewCampaign {
    /// Returns the campaign, checked.
    fn check(self, workspace: &WorkspaceId, at: Timestamp) -> Result<Campaign, Problem> {
        let mut campaign = Campaign {
            id: CampaignId::mint(),
            workspace: workspace.clone(),
            name: self.name,
            renamed_from: None,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            goal: self.goal,
            milestones: self.milestones.unwrap_or_else(|| MILESTONES.to_vec()),
            conversion_milestones: self.conversion_milestones.unwrap_or_default(),
            revenue_milestones: self.revenue_milestones.unwrap_or_default(),
            added_milestones: Vec::new(),
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        let mut checker = Checker::default();
        check(&campaign, &mut checker);
        if self.past_milestones == Some(PastMilestones::Tell) {
            campaign.added_milestones = added(&campaign, None, PastMilestones::Tell, at);
        }
        checker.finish(campaign)
    }
}

impl CampaignPatch {
    /// Returns `campaign` with the patch applied, checked.
    fn apply(self, campaign: &Campaign, at: Timestamp) -> Result<Campaign, Problem> {
        let mut checker = Checker::default();
        let mut new = campaign.clone();
        self.name.apply_required(&mut new.name, "name", &mut checker);
        self.starts_at.apply(&mut new.starts_at);
        self.ends_at.apply(&mut new.ends_at);
        self.goal.apply(&mut new.goal);
        self.milestones.apply_or(&mut new.milestones, MILESTONES.to_vec());
        self.conversion_milestones.apply_or(&mut new.conversion_milestones, Vec::new());
        self.revenue_milestones.apply_or(&mut new.revenue_milestones, Vec::new());
        check(&new, &mut checker);
        new.added_milestones = added(&new, Some(campaign), self.past_milestones.unwrap_or_default(), at);
        if new.name != campaign.name {
            match &campaign.renamed_from {
                None => new.renamed_from = Some(campaign.name.clone()),
                // Back to the name of the links that were not reached yet.
                Some(before) if *before == new.name => new.renamed_from = Some(campaign.name.clone()),
                Some(before) => {
                    let reason =
                        format!("cannot be changed yet: links of `{before}` are still being renamed. Try again soon");
                    checker.wrong("name", reason);
                }
            }
        }
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
        && !(1..=MAX_NUMBER).contains(&n)
    {
        checker.wrong(field, format!("is {n}, must be 1 to {MAX_NUMBER}"));
    }
    check_ascending("milestones", &campaign.milestones, checker);
    check_ascending("conversion_milestones", &campaign.conversion_milestones, checker);
    check_revenue(&campaign.revenue_milestones, checker);
}

fn check_ascending(field: &str, milestones: &[u64], checker: &mut Checker) {
    if milestones.len() > MAX_MILESTONES {
        checker.wrong(field, format!("has {}, at most {MAX_MILESTONES} are allowed", milestones.len()));
    }
    let mut above = 0;
    for (index, milestone) in milestones.iter().enumerate() {
        if *milestone <= above || *milestone > MAX_NUMBER {
            let reason = format!("is {milestone}, must be above {above} and at most {MAX_NUMBER}: they ascend");
            checker.wrong(format!("{field}[{index}]"), reason);
            return;
        }
        above = *milestone;
    }
}

fn check_revenue(milestones: &[Amount], checker: &mut Checker) {
    if milestones.len() > MAX_MILESTONES {
        let reason = format!("has {}, at most {MAX_MILESTONES} are allowed", milestones.len());
        checker.wrong("revenue_milestones", reason);
    }
    for (index, Amount { value, currency }) in milestones.iter().enumerate() {
        if !u64::try_from(*value).is_ok_and(|value| (1..=MAX_NUMBER).contains(&value)) {
            let reason = format!("is {value}, must be 1 to {MAX_NUMBER} of the currency's minor unit");
            checker.wrong(format!("revenue_milestones[{index}].value"), reason);
        }
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            checker.wrong(format!("revenue_milestones[{index}].currency"), "must be an ISO 4217 code such as EUR");
        }
        if milestones[..index].iter().any(|earlier| earlier.value == *value && earlier.currency == *currency) {
            checker.wrong(format!("revenue_milestones[{index}]"), "is there twice: leave one out");
        }
    }
}

/// Returns the milestones that were added after the campaign was created, now or before. Without an old version, all
/// milestones are added now.
fn added(new: &Campaign, old: Option<&Campaign>, past: PastMilestones, at: Timestamp) -> Vec<AddedMilestone> {
    let had: Vec<_> = old.map(|old| old.all_milestones().collect()).unwrap_or_default();
    // Under another name the campaign has other clicks.
    let renamed = old.is_some_and(|old| old.name != new.name);
    let earlier = old.map(|old| old.added_milestones.as_slice()).unwrap_or_default();
    let added = new.all_milestones().filter_map(|milestone| {
        if had.contains(&milestone) && !renamed {
            return earlier.iter().find(|added| added.is(&milestone)).cloned();
        }
        let since = past.since(at);
        let Milestone { metric, threshold, currency } = milestone;
        Some(AddedMilestone { metric, threshold, currency, since })
    });
    added.collect()
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
            ("conversion_milestones", json!([3, 2]), "conversion_milestones[1]"),
            ("revenue_milestones", json!([{"value": 0, "currency": "EUR"}]), "revenue_milestones[0].value"),
            ("revenue_milestones", json!([{"value": 5, "currency": "euro"}]), "revenue_milestones[0].currency"),
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
    #[test]
    fn a_milestone_that_is_added_later_counts_from_then_unless_the_past_is_asked_for() {
        let at = Timestamp::from_millis;
        let campaign = new(json!({"name": "a", "milestones": [100]})).unwrap();
        let first = Milestone::clicks(100);
        assert_eq!(campaign.told_since(&first), Some(campaign.created_at));
        let patched = |body: Value, campaign: &Campaign, millis: i64| {
            let patch: CampaignPatch = serde_json::from_value(body).unwrap();
            patch.apply(campaign, at(millis)).unwrap()
        };
        let later = patched(json!({"milestones": [100, 300]}), &campaign, 5);
        let second = Milestone::clicks(300);
        assert_eq!((later.told_since(&first), later.told_since(&second)), (Some(at(0)), Some(at(5))));
        let last = patched(json!({"milestones": [100, 300, 500], "past_milestones": "tell"}), &later, 9);
        let third = Milestone::clicks(500);
        assert_eq!((last.told_since(&second), last.told_since(&third)), (Some(at(5)), None));
        let renamed = patched(json!({"name": "b"}), &last, 11);
        assert_eq!(renamed.told_since(&first), Some(at(11)));
        let told = new(json!({"name": "a", "past_milestones": "tell"})).unwrap();
        assert_eq!(told.told_since(&first), None);
    }

    #[test]
    fn a_campaign_has_both_names_until_its_links_have_the_new_one() {
        let campaign = new(json!({"name": "a"})).unwrap();
        let rename = |campaign: &Campaign, name: &str| {
            let patch: CampaignPatch = serde_json::from_value(json!({"name": name})).unwrap();
            patch.apply(campaign, Timestamp::from_millis(5))
        };
        let moved = rename(&campaign, "b").unwrap();
        assert_eq!((moved.renamed_from.as_deref(), moved.unique_keys().len()), (Some("a"), 2));
        assert_eq!(rename(&moved, "c").unwrap_err().errors[0].field, "name");
        assert_eq!(rename(&moved, "a").unwrap().renamed_from.as_deref(), Some("b"));
        let done = renamed(&moved);
        assert_eq!((done.renamed_from.as_deref(), done.unique_keys().len(), done.revision), (None, 1, 2));
    }
}
