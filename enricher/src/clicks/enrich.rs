//! The event of a raw click: a pure function, so that repeating it gives the same
//! event.

use std::{borrow::Cow, net::IpAddr};

use schemas::{BotReason, ClickClass, ClickFacts, EventId, EventName, RawClick, hints::Hints};

use super::{
    address::{self, DayKey},
    address_data::{AddressData, AddressFiles, NetworkKind},
    agent::Agent,
    enriched::EnrichedClick,
    links::KnownLink,
    query::{self, Parameters, VisitCampaign},
    source::Traces,
};
use crate::config::{Datacentre, IpMode};

/// The facts that enriching needs beyond the click.
pub(crate) struct Enrich {
    pub(crate) addresses: AddressFiles,
    pub(crate) parameters: Parameters,
    pub(crate) ip_mode: IpMode,
    pub(crate) datacentre: Datacentre,
}

/// Why a click cannot be enriched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("the address is not one")]
    Address,
    #[error("a visit of class {0} is no event")]
    Class(&'static str),
    #[error("the link is missing")]
    NoLink,
    #[error("version {0} of the line is not known: this enricher reads version 1")]
    Version(u8),
}

impl Enrich {
    /// Returns the event of a raw click on `link` with its user agent's facts, and those of
    /// its address from `data`. `key` is the key of the click's day, if it still exists.
    pub(crate) fn event<'a>(
        &'a self,
        raw: &'a RawClick<'a>,
        link: Option<&'a KnownLink>,
        agent: &'a Agent,
        data: &'a AddressData,
        key: Option<&DayKey>,
    ) -> Result<EnrichedClick<'a>, Unusable> {
        if raw.v != 1 {
            return Err(Unusable::Version(raw.v));
        }
        let event = match raw.class {
            ClickClass::Click => EventName::LinkClicked,
            ClickClass::Qr => EventName::QrScanned,
            class => return Err(Unusable::Class(class.as_str())),
        };
        let link = link.ok_or(Unusable::NoLink)?;
        let ip: IpAddr = raw.ip.parse().map_err(|_| Unusable::Address)?;
        // Looked up before the address is reduced.
        let place = data.place(ip);
        let network = data.network(ip);
        let hints = raw.hints.as_deref().map(Hints::read).unwrap_or_default();
        let hinted = agent.with_hints(hints);
        let by_agent = agent.bot_reason.as_deref().map(Cow::from);
        let by_network = || {
            let network = network?;
            let reason = match network.kind {
                NetworkKind::Bot => BotReason::Network,
                NetworkKind::Hosting if self.datacentre == Datacentre::Bot && !agent.navigates(hints) => {
                    BotReason::Datacentre
                }
                NetworkKind::Hosting | NetworkKind::Cdn | NetworkKind::Vpn | NetworkKind::Tor => return None,
            };
            Some(format!("{reason}:{}", network.owner).into())
        };
        let by_rate = || raw.rate_limited.then_some(BotReason::Rate.as_str().into());
        let bot_reason = by_agent.or_else(by_network).or_else(by_rate);
        let VisitCampaign { utm, ad, click_id } = query::campaign(&self.parameters, raw.query.as_deref(), &link.own);
        let referer = raw.referer.as_deref().map(query::without_persons);
        let traces = Traces {
            utm_source: utm.as_ref().and_then(|utm| utm.source.as_deref()),
            utm_medium: utm.as_ref().and_then(|utm| utm.medium.as_deref()),
            click_id,
            referer: raw.referer.as_deref(),
            app: agent.app,
            short_url: &link.short_url,
            destination: &link.destination,
        };
        let origin = traces.origin();
        let at = raw.id.timestamp();
        let click = ClickFacts {
            id: raw.id,
            timestamp: at,
            ip_address: address::reduce(ip, self.ip_mode, key).map(Cow::from),
            user_agent: borrowed(raw.user_agent.as_ref()),
            referer,
            country: place.country.map(Cow::from),
            region: place.region.map(Cow::from),
            city: place.city.map(Cow::from),
            asn: place.asn,
            organisation: place.organisation.map(Cow::from),
            network: network.map(|network| network.kind.as_str().into()),
            device: hinted.device.map(Cow::from),
            browser: hinted.browser.map(Cow::from),
            browser_version: agent.browser_version.as_deref().map(Cow::from),
            os: hinted.os.map(Cow::from),
            os_version: hinted.os_version.map(Cow::from),
            app: agent.app.map(Cow::from),
            source: Some(origin.source),
            medium: Some(origin.medium.as_str().into()),
            bot: bot_reason.is_some(),
            bot_reason,
            session_id: key.map(|key| address::session_id(key, ip, raw.user_agent.as_deref()).into()),
        };
        Ok(EnrichedClick {
            workspace: &raw.workspace,
            ip_key: key.map(|key| address::ip_key(key, ip)),
            id: EventId::of(&raw.workspace, event, &raw.id.to_string(), "", at),
            event,
            at,
            link,
            click,
            utm,
            attribution: ad,
        })
    }
}

fn borrowed<'a>(text: Option<&'a Cow<'a, str>>) -> Option<Cow<'a, str>> {
    text.map(|text| Cow::Borrowed(text.as_ref()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clicks::agent::{AgentCache, AgentReader};
    use crate::config::Config;

    const LINE: &str = concat!(
        r#"{"v":1,"id":"clk_01KGQ7ZJ4GE01A80000000002A","class":"click","ip":"203.0.113.42","#,
        r#""user_agent":"Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 "#,
        r#"(KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1","#,
        r#""referer":"https://instagram.com","query":"utm_source=instagram&fbclid=x","workspace":"default","#,
        r#""link":{"id":"lnk_0000000000000000000000000Z","short_url":"https://go.acme.co/sale","#,
        r#""destination":"https://acme.com/winter-sale","slug":"sale","tags":["social"]}}"#,
    );

    fn link(raw: &RawClick<'_>) -> KnownLink {
        KnownLink::new(raw.link.as_ref().unwrap(), &Parameters::new(&BTreeMap::new())).unwrap()
    }

    fn enrich() -> Enrich {
        let parameters = Parameters::new(&BTreeMap::new());
        Enrich {
            addresses: AddressFiles::open(&Config::default()).unwrap(),
            parameters,
            ip_mode: IpMode::Truncated,
            datacentre: Datacentre::Fact,
        }
    }

    #[test]
    fn a_click_becomes_one_event_in_the_contracts_order() {
        let raw: RawClick<'_> = serde_json::from_str(LINE).unwrap();
        let enrich = enrich();
        let (data, key) = (AddressData::default(), DayKey::new(&[7; 32]));
        let agent = AgentCache::default().agent(&AgentReader::new().unwrap(), raw.user_agent.as_deref());
        let link = link(&raw);
        let event = enrich.event(&raw, Some(&link), &agent, &data, Some(&key)).unwrap();
        let envelope = event.envelope();
        let body = serde_json::to_string(&envelope.event).unwrap();
        assert_eq!(envelope, enrich.event(&raw, Some(&link), &agent, &data, Some(&key)).unwrap().envelope());
        let keys = [
            "\"id\":\"evt_",
            "\"event\":\"link.clicked\"",
            "\"timestamp\"",
            "\"link\"",
            "\"click\"",
            "\"ip_address\":\"203.0.113.0\"",
            "\"device\":\"mobile\"",
            "\"browser\":\"Safari\"",
            "\"source\":\"instagram\"",
            "\"medium\":\"social\"",
            "\"bot\":false",
            "\"session_id\":\"ses_",
            "\"utm\"",
            "\"attribution\"",
        ];
        let places: Vec<_> =
            keys.iter().map(|key| body.find(key).unwrap_or_else(|| panic!("{key} in {body}"))).collect();
        assert!(places.is_sorted(), "{body}");
        assert!(!body.contains("null") && !body.contains("203.0.113.42"), "{body}");
        assert!(envelope.ip_key.is_some() && !body.contains(envelope.ip_key.as_deref().unwrap()));
    }

    #[test]
    fn what_names_a_person_is_in_no_event() {
        let line = LINE
            .replace("https://instagram.com", "https://jane@instagram.com/p?email=jane%40acme.example&mc_eid=77")
            .replace("fbclid=x", "mc_eid=77&utm_content=jane@acme.example");
        let raw: RawClick<'_> = serde_json::from_str(&line).unwrap();
        let enrich = enrich();
        let data = AddressData::default();
        let agent = AgentCache::default().agent(&AgentReader::new().unwrap(), None);
        let link = link(&raw);
        let event = enrich.event(&raw, Some(&link), &agent, &data, None).unwrap();
        let body = serde_json::to_string(&event.envelope().event).unwrap();
        assert!(body.contains(r#""referer":"https://instagram.com/p""#), "{body}");
        assert!(!body.contains("jane") && !body.contains("77"), "{body}");
    }

    #[test]
    fn a_special_network_is_a_fact_and_a_verdict_only_where_it_is_sure() {
        let hinted_reason = |ip: &str, datacentre, hints: &str| {
            let line = LINE.replace("203.0.113.42", ip);
            let line = line.replace(r#""query":"#, &format!(r#""hints":"{hints}","query":"#));
            let raw: RawClick<'_> = serde_json::from_str(&line).unwrap();
            let agent = AgentCache::default().agent(&AgentReader::new().unwrap(), raw.user_agent.as_deref());
            let enrich = Enrich { datacentre, ..enrich() };
            let data = AddressData::of_ranges();
            let link = link(&raw);
            let click = enrich.event(&raw, Some(&link), &agent, &data, None).unwrap().click;
            assert_eq!(click.bot, click.bot_reason.is_some());
            (click.network.map(Cow::into_owned), click.bot_reason.map(Cow::into_owned))
        };
        let reason = |ip: &str, datacentre| hinted_reason(ip, datacentre, "");
        let told = |network: &str, reason: Option<&str>| (Some(network.to_owned()), reason.map(str::to_owned));
        assert_eq!(reason("203.0.113.7", Datacentre::Fact), told("bot", Some("network:Googlebot")));
        assert_eq!(reason("192.0.2.1", Datacentre::Fact), told("hosting", None));
        assert_eq!(reason("192.0.2.1", Datacentre::Bot), told("hosting", Some("datacentre:Hetzner")));
        assert_eq!(reason("203.0.113.8", Datacentre::Bot), (None, None));
        // A browser's own word that somebody follows a link: a desktop in a data centre.
        assert_eq!(hinted_reason("192.0.2.1", Datacentre::Bot, "f=nav"), told("hosting", None));
        let fetched = hinted_reason("192.0.2.1", Datacentre::Bot, "f=other");
        assert_eq!(fetched, told("hosting", Some("datacentre:Hetzner")));
        let crawler = hinted_reason("203.0.113.7", Datacentre::Bot, "f=nav");
        assert_eq!(crawler, told("bot", Some("network:Googlebot")));
    }

    #[test]
    fn a_click_whose_days_key_is_gone_has_no_session() {
        let raw: RawClick<'_> = serde_json::from_str(LINE).unwrap();
        let enrich = enrich();
        let data = AddressData::default();
        let agent = Agent::default();
        let link = link(&raw);
        let event = enrich.event(&raw, Some(&link), &agent, &data, None).unwrap();
        assert_eq!((event.ip_key, event.click.session_id), (None, None));
    }

    #[test]
    fn an_unusable_line_gives_its_reason() {
        let reason = |line: &str, with_link: bool| {
            let raw: RawClick<'_> = serde_json::from_str(line).unwrap();
            let link = with_link.then(|| link(&raw));
            enrich().event(&raw, link.as_ref(), &Agent::default(), &AddressData::default(), None).err().unwrap()
        };
        assert!(matches!(reason(&LINE.replace("203.0.113.42", "203.0.113"), true), Unusable::Address));
        assert!(matches!(reason(&LINE.replace("\"v\":1", "\"v\":2"), true), Unusable::Version(2)));
        assert!(matches!(reason(LINE, false), Unusable::NoLink));
    }
}
