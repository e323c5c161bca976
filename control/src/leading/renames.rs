//! The names of campaigns, which links have as a text. Where a campaign was renamed, the leader writes the new name to its
//! links, some in a transaction, and then takes the old name from the campaign. A leader that follows goes on where the one
//! before has ended, since the campaign's record says that there is something to do.

use std::{sync::Arc, time::Duration};

use schemas::{Campaign, Link, LinkId};
use service::problem::Problem;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    kinds::{campaign::renamed, link::with_campaign},
    leading::{leadership::Leadership, writer::ActiveLeader},
    state::{audit::Author, draft::Draft, entity::Expected, links::LinkLabel},
};

/// The interval at which campaigns are looked through.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most links of one transaction.
const AT_ONCE: usize = 500;

/// Writes new names of campaigns to their links while this instance leads. Never returns.
pub(crate) async fn write_names_to_links(leadership: Arc<Leadership>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(leader) = leadership.leader() else { continue };
        let is_renamed = |campaign: &&Arc<Campaign>| campaign.renamed_from.is_some();
        let campaigns: Vec<_> = leader.read(|state| state.campaigns.iter().filter(is_renamed).cloned().collect());
        for campaign in campaigns {
            if let Err(problem) = rename(&leader, &campaign).await {
                warn!(campaign = %campaign.id, reason = problem.detail, "new name of a campaign not written to all links: retrying");
            }
        }
    }
}

/// Writes the new name of a campaign to all its links.
async fn rename(leader: &ActiveLeader, campaign: &Arc<Campaign>) -> Result<(), Problem> {
    let mut before = None;
    let mut links = 0;
    loop {
        let campaign = Arc::clone(campaign);
        let chunk = leader
            .enqueue(Author::Leader, move |draft| Ok(rename_some(draft, &campaign, before)))
            .await?
            .committed()
            .await?;
        match chunk {
            Some((last, changed)) => {
                before = Some(last);
                links += changed;
            }
            None => break,
        }
    }
    info!(campaign = %campaign.id, links, "new name of a campaign written to its links");
    Ok(())
}

/// Drafts the new name of some links, and returns the last link that was looked at, and the number of changed links. At the
/// end, the campaign loses its old name, and nothing is returned.
fn rename_some(draft: &mut Draft<'_>, campaign: &Campaign, before: Option<LinkId>) -> Option<(LinkId, usize)> {
    let workspace = &campaign.workspace;
    let label = LinkLabel::Campaign(campaign.renamed_from.clone()?);
    let ids = draft.labelled(workspace, &label, before.as_ref(), AT_ONCE);
    let Some(last) = ids.last().copied() else {
        // A campaign that was changed or deleted since is looked at again.
        let done = |now: &Campaign, _| Ok(if now == campaign { renamed(now) } else { now.clone() });
        let _ = draft.update(workspace, &campaign.id, &Expected::Anything, done);
        return None;
    };
    let name = |link: &Link, at| Ok(with_campaign(link, &campaign.name, at));
    let changed = draft.without_quotas(|draft| {
        ids.iter().filter(|id| draft.update::<Link>(workspace, id, &Expected::Anything, name).is_ok()).count()
    });
    Some((last, changed))
}
