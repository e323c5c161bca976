//! A plausible event of every type: what `test` and `trigger` send, and what
//! the event catalogue shows. And the plainest link and domain, from which tests
//! and benches make theirs.

use std::borrow::Cow;

use crate::{
    Attribution, CampaignId, ClickFacts, ClickId, ConversionId, Domain, DomainId, DomainProof, EndpointFacts,
    EndpointId, EndpointStatus, Event, EventId, EventName, KeyId, Link, LinkFacts, LinkId, Timestamp, Utm, WorkspaceId,
    audit::{ActorKind, AuditAction, AuditActor, AuditFacts, AuditedKind},
    campaign::{CampaignFacts, Goal},
    conversion::Amount,
    event::{Change, Changes, ConversionFacts},
    link::MaxClicksOf,
    usermap::UserMap,
    watch::{BurstCause, BurstFacts, CompletionFacts, CompletionReason, MilestoneFacts, MilestoneMetric, ViralFacts},
    workspace::{SlugCase, TrailingSlash},
};

/// A link of the workspace `default` that does nothing but lead on, and passes the
/// visit's query on as links do unless told otherwise.
#[must_use]
pub fn plain_link(id: LinkId, slug: &str, destination: &str) -> Link {
    let at = Timestamp::from_millis(0);
    Link {
        id,
        workspace: WorkspaceId::default(),
        domain: None,
        slug: slug.to_owned(),
        former_slugs: Vec::new(),
        destination: destination.to_owned(),
        short_url: format!("http://localhost:8080/{slug}"),
        campaign: None,
        segment: None,
        tags: Vec::new(),
        status_code: 302,
        starts_at: None,
        expires_at: None,
        expired_url: None,
        max_clicks: None,
        max_clicks_of: MaxClicksOf::People,
        exhausted_at: None,
        disabled: false,
        archived: false,
        append_click_id: false,
        passthrough: true,
        referrer_policy: None,
        metadata: UserMap::default(),
        external_id: None,
        created_at: at,
        updated_at: at,
        revision: 1,
    }
}

/// A domain of the workspace `default` that was verified.
#[must_use]
pub fn plain_domain(id: DomainId, name: &str) -> Domain {
    let at = Timestamp::from_millis(0);
    Domain {
        id,
        workspace: WorkspaceId::default(),
        name: name.to_owned(),
        is_default: false,
        slug_case: SlugCase::Sensitive,
        trailing_slash: TrailingSlash::Refused,
        root_url: None,
        fallback_url: None,
        expired_url: None,
        fallback_html: None,
        expired_html: None,
        verification: String::new(),
        verified_at: Some(at),
        proof: Some(DomainProof::Dns),
        proof_missing_since: None,
        lapsed_at: None,
        deleted_at: None,
        created_at: at,
        updated_at: at,
        revision: 1,
    }
}

/// A sample event of type `name` that happened at `at`.
#[must_use]
pub fn event(name: EventName, at: Timestamp) -> Event<'static> {
    let click_id = ClickId::new(at, 0, 0x5a5a_5a5a);
    let converted = name == EventName::LinkConverted;
    let click = converted || matches!(name, EventName::LinkClicked | EventName::QrScanned);
    let endpoint = endpoint(name, at);
    let message = message(name);
    let of_campaign = matches!(name, EventName::CampaignMilestone | EventName::CampaignCompleted);
    let audit = AuditAction::of(name).map(audit);
    let of_link = endpoint.is_none() && !of_campaign && message.is_none() && audit.is_none();
    let bare = Event::bare(EventId::of("sample", name, &click_id.to_string(), "", at), name, at);
    Event {
        link: of_link.then(link),
        campaign: of_campaign.then(|| campaign(at)),
        milestone: matches!(name, EventName::LinkMilestone | EventName::CampaignMilestone).then(milestone),
        completion: (name == EventName::CampaignCompleted).then_some(CompletionFacts {
            reason: CompletionReason::Goal,
            clicks: 10_000,
            conversions: 312,
        }),
        viral: (name == EventName::LinkViral).then_some(ViralFacts {
            clicks: 640,
            hourly_average: 41,
            window_start: at,
        }),
        suspicious: (name == EventName::LinkSuspicious).then(|| BurstFacts {
            cause: BurstCause::Network,
            clicks: 1200,
            link_clicks: 1310,
            window_start: at,
            organisation: Some("Example Net".into()),
            user_agent: None,
        }),
        conversion: converted.then(conversion),
        click: click.then(|| self::click(click_id, at)),
        utm: click.then(|| Utm {
            source: Some("instagram".into()),
            medium: Some("social".into()),
            campaign: Some("winter-sale".into()),
            term: None,
            content: Some("story-swipe-up".into()),
        }),
        attribution: click.then(|| Attribution {
            referrer_ad_creative: Some("story-7".into()),
            ad_set: None,
            ad_campaign: None,
            gclid: None,
            fbclid: Some("IwAR0sample".into()),
            click_ids: [("igsh".into(), "MzRlODBiNWFlZA==".into())].into(),
        }),
        changes: (name == EventName::LinkUpdated).then(|| Changes {
            destination: Some(Change {
                from: Some("https://acme.com/autumn-sale".to_owned()),
                to: Some("https://acme.com/winter-sale".to_owned()),
            }),
            ..Changes::default()
        }),
        endpoint,
        audit,
        message,
        ..bare
    }
}

fn campaign(at: Timestamp) -> CampaignFacts<'static> {
    CampaignFacts {
        id: CampaignId::from_bits(0x019c_2e2f_7c20_7000_8000_0000_0000_0002),
        name: "winter-sale-2026".into(),
        starts_at: Some(at),
        ends_at: None,
        goal: Some(Goal::Clicks(10_000)),
    }
}

fn milestone() -> MilestoneFacts<'static> {
    MilestoneFacts {
        metric: MilestoneMetric::Clicks,
        threshold: 1000,
        value: 1003,
        top_source: Some("instagram".into()),
        conversions: 31,
        conversion_rate: Some(309),
        currency: None,
    }
}

/// Returns the sentence of an event that is about no link.
fn message(name: EventName) -> Option<Cow<'static, str>> {
    let message = match name {
        EventName::WebhookTest => "This is a test. Your endpoint works.",
        EventName::PersonErased => {
            "A person was erased: 3 clicks and 1 conversions were deleted. The hash of the person's id is 5a5a."
        }
        EventName::DomainProofMissing => {
            "The TXT record that proves the domain go.acme.co (dom_00000000000000000000000001) is gone. Without it, the \
             domain serves nothing from 2026-02-08T14:23:45.120Z on."
        }
        EventName::DomainLapsed => {
            "The domain go.acme.co (dom_00000000000000000000000001) has lost its proof and serves nothing any more."
        }
        _ => return None,
    };
    Some(message.into())
}

/// Returns the endpoint of an event that is about one.
fn endpoint(name: EventName, at: Timestamp) -> Option<EndpointFacts<'static>> {
    let (status, status_reason, failing_since) = match name {
        EventName::EndpointFailing => (EndpointStatus::Active, None, Some(at)),
        EventName::EndpointDisabled => {
            (EndpointStatus::Disabled, Some("nothing but failures for 120 hours".into()), Some(at))
        }
        EventName::EndpointRecovered => (EndpointStatus::Active, None, None),
        _ => return None,
    };
    let id = EndpointId::from_bits(0x019c_2e2f_7c20_7000_8000_0000_0000_0001);
    Some(EndpointFacts { id, status, status_reason, failing_since })
}

/// Returns the change of an event of the audit log.
fn audit(action: AuditAction) -> AuditFacts<'static> {
    let (resource, id) = match action {
        AuditAction::Created | AuditAction::Updated | AuditAction::Deleted | AuditAction::Expired => {
            (AuditedKind::Link, link().id.to_string())
        }
        AuditAction::Rotated => (AuditedKind::Key, KeyId::from_bits(3).to_string()),
        AuditAction::Verified | AuditAction::Lapsed => (AuditedKind::Domain, DomainId::from_bits(1).to_string()),
        AuditAction::Disabled => (AuditedKind::Endpoint, EndpointId::from_bits(4).to_string()),
        AuditAction::Erased => (AuditedKind::Person, EventId::from_bits(5).to_string()),
    };
    let actor = if matches!(action, AuditAction::Lapsed | AuditAction::Disabled | AuditAction::Expired) {
        AuditActor { kind: ActorKind::System, id: None, name: None }
    } else {
        AuditActor { kind: ActorKind::Key, id: Some(KeyId::from_bits(2)), name: Some("deploy".into()) }
    };
    let fields = if action == AuditAction::Updated { vec!["destination".into()] } else { Vec::new() };
    AuditFacts { actor, resource, ids: vec![id.into()], fields, request_id: Some("req-7f3a".into()) }
}

fn link() -> LinkFacts<'static> {
    LinkFacts {
        id: LinkId::from_bits(0x019c_2e2f_7c20_7000_8000_0000_0000_0000),
        short_url: "https://go.acme.co/sale".into(),
        destination: "https://acme.com/winter-sale".into(),
        slug: "sale".into(),
        campaign: Some("winter-sale-2026".into()),
        segment: Some("q1".into()),
        tags: vec!["social".into(), "instagram".into()],
    }
}

fn conversion() -> ConversionFacts<'static> {
    ConversionFacts {
        id: ConversionId::from_bits(0x019c_2e2f_7c20_7000_8000_0000_0000_0001),
        name: "purchase".into(),
        order_id: Some("A-1042".into()),
        status: Some("approved".into()),
        product: Some("winter jacket".into()),
        amount: Some(Amount { value: 12_950, currency: "EUR".to_owned() }),
        commission: Some(Amount { value: 1295, currency: "EUR".to_owned() }),
        affiliate_id: Some("aff-7".into()),
        customer_id: Some("cus-2041".into()),
        attributed: true,
        seconds_since_click: Some(0),
        metadata: [("coupon", "WINTER10")].into_iter().collect(),
    }
}

fn click(id: ClickId, at: Timestamp) -> ClickFacts<'static> {
    ClickFacts {
        id,
        timestamp: at,
        ip_address: Some("203.0.113.0".into()),
        user_agent: Some("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1".into()),
        referer: Some("https://instagram.com".into()),
        country: Some("US".into()),
        region: Some("California".into()),
        city: Some("San Francisco".into()),
        asn: Some(64_496),
        organisation: Some("Example Net".into()),
        network: None,
        device: Some("mobile".into()),
        browser: Some("Safari".into()),
        browser_version: Some("17.0".into()),
        os: Some("iOS".into()),
        os_version: Some("17.0".into()),
        app: Some("instagram".into()),
        source: Some("instagram".into()),
        medium: Some("social".into()),
        bot: false,
        bot_reason: None,
        session_id: Some("ses_0123456789abcdef".into()),
    }
}
