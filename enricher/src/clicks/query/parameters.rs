//! The parameters that are read from a query: whose they are, and what they say.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};

use super::persons::is_personal;
use crate::clicks::source::{AdOrigin, Medium};

/// A parameter of a campaign (`utm_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UtmField {
    Source,
    Medium,
    Campaign,
    Term,
    Content,
}

impl UtmField {
    pub(super) const ALL: [Self; 5] = [Self::Source, Self::Medium, Self::Campaign, Self::Term, Self::Content];
}

/// The fact that a parameter tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Utm(UtmField),
    /// The ad's creative.
    Creative,
    AdSet,
    AdCampaign,
    /// The click id at this place of [`CLICK_IDS`].
    ClickId(usize),
}

/// A parameter, and how much it counts beside others that tell the same fact.
#[derive(Clone, Copy, Debug)]
pub(super) struct RankedParameter {
    pub(super) parameter: Parameter,
    /// The lowest rank counts.
    pub(super) rank: u8,
}

/// A click id that a network adds to addresses.
#[derive(Debug)]
pub(super) struct AdClickId {
    /// Its parameter, in lower case.
    pub(super) name: &'static str,
    pub(super) origin: AdOrigin,
}

const fn id(name: &'static str, source: &'static str, medium: Medium) -> AdClickId {
    AdClickId { name, origin: AdOrigin { source: Some(source), medium } }
}

const fn anyones(name: &'static str, medium: Medium) -> AdClickId {
    AdClickId { name, origin: AdOrigin { source: None, medium } }
}

/// The click ids. Where a visit has several, the first of them here tells the source:
/// paid clicks before partners, mails and shared posts.
pub(super) const CLICK_IDS: &[AdClickId] = &[
    id("gclid", "google", Medium::Ads),
    id("gbraid", "google", Medium::Ads),
    id("wbraid", "google", Medium::Ads),
    id("dclid", "google", Medium::Ads),
    id("gad_source", "google", Medium::Ads),
    id("gad_campaignid", "google", Medium::Ads),
    id("msclkid", "bing", Medium::Ads),
    id("ttclid", "tiktok", Medium::Ads),
    id("twclid", "twitter", Medium::Ads),
    id("li_fat_id", "linkedin", Medium::Ads),
    id("rdt_cid", "reddit", Medium::Ads),
    id("sccid", "snapchat", Medium::Ads),
    id("yclid", "yandex", Medium::Ads),
    id("ymclid", "yandex", Medium::Ads),
    id("obclid", "outbrain", Medium::Ads),
    id("dicbo", "outbrain", Medium::Ads),
    id("tblci", "taboola", Medium::Ads),
    id("tabclid", "taboola", Medium::Ads),
    id("qclid", "quora", Medium::Ads),
    id("vmcid", "yahoo", Medium::Ads),
    id("wickedid", "wicked", Medium::Ads),
    id("sznclid", "seznam", Medium::Ads),
    anyones("s_kwcid", Medium::Ads),
    anyones("ef_id", Medium::Ads),
    id("irclickid", "impact", Medium::Affiliate),
    id("cjevent", "cj", Medium::Affiliate),
    id("awc", "awin", Medium::Affiliate),
    id("ransiteid", "rakuten", Medium::Affiliate),
    id("sscid", "shareasale", Medium::Affiliate),
    anyones("aff_id", Medium::Affiliate),
    anyones("clickid", Medium::Affiliate),
    id("mc_cid", "mailchimp", Medium::Email),
    id("_hsmi", "hubspot", Medium::Email),
    id("srsltid", "google", Medium::Search),
    id("epik", "pinterest", Medium::Social),
    id("igshid", "instagram", Medium::Social),
    id("igsh", "instagram", Medium::Social),
    // Meta adds it to every link, paid or not.
    id("fbclid", "facebook", Medium::Social),
];

/// The names of other facts, the rank of which is their place in the list of their fact.
const NAMES: &[(Parameter, &[&str])] = &[
    (Parameter::Utm(UtmField::Source), &["utm_source"]),
    (Parameter::Utm(UtmField::Medium), &["utm_medium"]),
    (Parameter::Utm(UtmField::Campaign), &["utm_campaign"]),
    (Parameter::Utm(UtmField::Term), &["utm_term"]),
    (Parameter::Utm(UtmField::Content), &["utm_content"]),
    // Names before ids; `utm_content` is the last resort.
    (
        Parameter::Creative,
        &[
            "ad_creative creative referrer_ad_creative referreradcreative",
            "utm_creative ad_name",
            "creative_id creativeid ad_id adid hsa_ad",
        ],
    ),
    (Parameter::AdSet, &["adset adset_name", "adset_id adgroup adgroup_id adgroupid hsa_grp"]),
    (Parameter::AdCampaign, &["campaign_id campaignid utm_id hsa_cam"]),
];

/// The rank of an alias: the parameter itself counts before it.
const ALIAS_RANK: u8 = 100;
/// The longest alias, in bytes.
const MAX_ALIAS: usize = 64;

/// The parameters by their names in lower case, aliases included.
#[derive(Debug)]
pub(crate) struct Parameters(HashMap<Box<str>, RankedParameter>);

impl Parameters {
    /// Returns the parameters with `aliases`: a name of one's own, and the parameter
    /// that it stands for. What stands for nothing is left out: the configuration
    /// refuses it.
    pub(crate) fn new(aliases: &BTreeMap<String, String>) -> Self {
        let mut known = HashMap::new();
        for (at, click_id) in CLICK_IDS.iter().enumerate() {
            known.insert(click_id.name.into(), RankedParameter { parameter: Parameter::ClickId(at), rank: 0 });
        }
        for (parameter, ranks) in NAMES {
            for (names, rank) in ranks.iter().zip(0..) {
                for name in names.split(' ') {
                    known.entry(name.into()).or_insert(RankedParameter { parameter: *parameter, rank });
                }
            }
        }
        for (alias, name) in aliases.iter().filter(|(alias, _)| !is_personal(&alias.to_lowercase())) {
            if let Some(RankedParameter { parameter, .. }) = known.get(name.to_lowercase().as_str()).copied() {
                known.entry(alias.to_lowercase().into()).or_insert(RankedParameter { parameter, rank: ALIAS_RANK });
            }
        }
        Self(known)
    }

    /// Returns the parameter of that name in lower case.
    pub(super) fn get(&self, name: &str) -> Option<RankedParameter> {
        self.0.get(name).copied()
    }
}

/// Returns why `alias` cannot stand for the parameter `name`.
pub(crate) fn refused_alias(alias: &str, name: &str) -> Option<&'static str> {
    let known = Parameters::new(&BTreeMap::new());
    if alias.is_empty() || alias.len() > MAX_ALIAS {
        Some("an alias of 1 to 64 bytes")
    } else if is_personal(&alias.to_lowercase()) {
        Some("an alias that names no person: such parameters are never stored")
    } else if known.get(&alias.to_lowercase()).is_some() {
        Some("an alias that is not itself a parameter that is read")
    } else if known.get(&name.to_lowercase()).is_none() {
        Some("a parameter that is read, such as utm_source or ad_creative")
    } else {
        None
    }
}
