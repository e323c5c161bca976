//! The parameters of visits as programs, mailers and people spoil them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clicks::source::Medium;

const NOWHERE: &str = "https://acme.example/";

fn of<'a>(query: &'a str, destination: &str) -> VisitCampaign<'a> {
    with(&Parameters::new(&BTreeMap::new()), Some(query), destination)
}

fn with<'a>(parameters: &Parameters, query: Option<&'a str>, destination: &str) -> VisitCampaign<'a> {
    campaign(parameters, query, Box::leak(Box::new(parameters.of_destination(destination))))
}

fn utm(query: &str) -> [Option<String>; 5] {
    let utm = of(query, NOWHERE).utm.unwrap_or_default();
    [utm.source, utm.medium, utm.campaign, utm.term, utm.content].map(|value| value.map(Cow::into_owned))
}

fn source(query: &str) -> Option<String> {
    let [source, ..] = utm(query);
    source
}

fn creative(query: &str) -> Option<String> {
    of(query, NOWHERE).ad.unwrap_or_default().referrer_ad_creative.map(Cow::into_owned)
}

#[test]
fn the_visits_campaign_wins_and_of_other_keys_the_destinations() {
    let query = "utm_source=tiktok&utm_source=x&utm_medium=e%2Dmail&fbclid=abc&creative=story-7&other=1";
    let destination = "https://acme.example/?utm_source=default&utm_term=own&fbclid=own&gclid=G1#utm_content=f";
    let VisitCampaign { utm, ad, .. } = of(query, destination);
    let (utm, ad) = (utm.unwrap(), ad.unwrap());
    assert_eq!(utm.source.as_deref(), Some("tiktok"));
    assert_eq!(utm.medium.as_deref(), Some("e-mail"));
    assert_eq!(utm.term.as_deref(), Some("own"));
    assert_eq!(utm.content, None);
    assert_eq!(ad.fbclid.as_deref(), Some("own"));
    assert_eq!(ad.gclid.as_deref(), Some("G1"));
    assert_eq!(ad.referrer_ad_creative.as_deref(), Some("story-7"));
}

#[test]
fn keys_are_read_as_they_are_meant() {
    let ab = [Some("a".to_owned()), Some("b".to_owned()), None, None, None];
    for query in [
        "utm_source=a&utm_medium=b",
        "UTM_Source=a&Utm_Medium=b",
        "utm_source=a&amp;utm_medium=b",
        "utm_source=a&amp%3Butm_medium=b",
        "utm_source=a&amp;amp;utm_medium=b",
        "utm_source[]=a&utm_medium%5B%5D=b",
        "?utm_source=a&utm_medium=b",
        "utm%5fsource=a&+utm_medium=b",
        "utm_source=a%26utm_medium%3Db",
        "utm_source=a?utm_medium=b",
        "id=5?utm_source=a&utm_medium=b",
        "a?utm_source=a&utm_medium=b",
        "utm_source=&utm_source=a&utm_medium=b",
        "utm_source={source}&utm_source=a&utm_medium=b",
    ] {
        assert_eq!(utm(query), ab, "{query}");
    }
    // `;` separates nothing, and the query of an address in a value is its own.
    assert_eq!(source("utm_source=a;utm_medium=b").as_deref(), Some("a;utm_medium=b"));
    assert_eq!(source("u=https://x.example/?utm_source=other"), None);
    assert_eq!(source("u=https%3A%2F%2Fx.example%2F%3Futm_source%3Dother"), None);
}

#[test]
fn values_are_decoded_and_tidied() {
    for (query, expected) in [
        ("utm_source=news+letter", Some("news letter")),
        ("utm_source=news%2520letter", Some("news letter")),
        ("utm_source=100%2525", Some("100%")),
        ("utm_source=100%25+off", Some("100% off")),
        ("utm_source=%20News%20", Some("News")),
        ("utm_source=%00x%0d%0ay", Some("xy")),
        ("utm_source=%20%20", None),
        ("utm_source=%ff%fe", None),
        ("utm_source=caf%E9", Some("caf\u{fffd}")),
        ("utm_source=%F0%9F%A6%80", Some("\u{1f980}")),
        ("utm_source", None),
    ] {
        assert_eq!(source(query).as_deref(), expected, "{query}");
    }
    // A click id means what its bytes are.
    assert_eq!(of("gclid=Ab%252Bc", NOWHERE).ad.unwrap().gclid.as_deref(), Some("Ab%2Bc"));
    let long = format!("utm_source={}", "\u{e4}".repeat(2000));
    assert_eq!(source(&long).unwrap().chars().count(), text::MAX_CHARS);
}

#[test]
fn macros_that_were_not_filled_in_are_absent() {
    for value in [
        "{creative}",
        "%7Bcreative%7D",
        "{{ad.name}}",
        "__CID_NAME__",
        "[creative]",
        "${CREATIVE}",
        "(creative)",
        "%AD_ID%",
        "%CREATIVE%",
        "<creative>",
        "undefined",
        "null",
        "(not+set)",
        "(not%20set)",
    ] {
        assert_eq!(creative(&format!("creative={value}&gclid={value}")), None, "{value}");
        assert_eq!(of(&format!("gclid={value}"), NOWHERE).click_id, None, "{value}");
    }
}

#[test]
fn a_creative_has_many_names_and_utm_content_is_the_last() {
    for name in [
        "ad_creative",
        "creative",
        "referrer_ad_creative",
        "referrerAdCreative",
        "creative_id",
        "creativeid",
        "ad_id",
        "adid",
        "ad_name",
        "hsa_ad",
        "utm_creative",
        "utm_content",
    ] {
        assert_eq!(creative(&format!("{name}=s7")).as_deref(), Some("s7"), "{name}");
        assert_eq!(
            creative(&format!("utm_content=other&{name}=s7&utm_content=x")).as_deref(),
            Some(if name == "utm_content" { "other" } else { "s7" }),
            "{name}"
        );
    }
    assert_eq!(creative("ad_id=1&ad_name=n&referrerAdCreative=r").as_deref(), Some("r"));
    let ad = of("adset_id=1&adset=n&campaignid=7", NOWHERE).ad.unwrap();
    assert_eq!((ad.ad_set.as_deref(), ad.ad_campaign.as_deref()), (Some("n"), Some("7")));
}

#[test]
fn click_ids_are_kept_and_say_whose_they_are() {
    for (query, source, medium) in [
        ("gclid=x", Some("google"), Medium::Ads),
        ("gbraid=x", Some("google"), Medium::Ads),
        ("wbraid=x", Some("google"), Medium::Ads),
        ("dclid=x", Some("google"), Medium::Ads),
        ("gad_source=1&gad_campaignid=2", Some("google"), Medium::Ads),
        ("srsltid=x", Some("google"), Medium::Search),
        ("msclkid=x", Some("bing"), Medium::Ads),
        ("fbclid=x", Some("facebook"), Medium::Social),
        ("igshid=x", Some("instagram"), Medium::Social),
        ("igsh=x", Some("instagram"), Medium::Social),
        ("ttclid=x", Some("tiktok"), Medium::Ads),
        ("twclid=x", Some("twitter"), Medium::Ads),
        ("li_fat_id=x", Some("linkedin"), Medium::Ads),
        ("epik=x", Some("pinterest"), Medium::Social),
        ("rdt_cid=x", Some("reddit"), Medium::Ads),
        ("ScCid=x", Some("snapchat"), Medium::Ads),
        ("sccid=x", Some("snapchat"), Medium::Ads),
        ("yclid=x", Some("yandex"), Medium::Ads),
        ("ymclid=x", Some("yandex"), Medium::Ads),
        ("obclid=x", Some("outbrain"), Medium::Ads),
        ("dicbo=x", Some("outbrain"), Medium::Ads),
        ("tblci=x", Some("taboola"), Medium::Ads),
        ("tabclid=x", Some("taboola"), Medium::Ads),
        ("qclid=x", Some("quora"), Medium::Ads),
        ("vmcid=x", Some("yahoo"), Medium::Ads),
        ("wickedid=x", Some("wicked"), Medium::Ads),
        ("sznclid=x", Some("seznam"), Medium::Ads),
        ("irclickid=x", Some("impact"), Medium::Affiliate),
        ("clickid=x", None, Medium::Affiliate),
        ("cjevent=x", Some("cj"), Medium::Affiliate),
        ("awc=x", Some("awin"), Medium::Affiliate),
        ("ranSiteID=x", Some("rakuten"), Medium::Affiliate),
        ("sscid=x", Some("shareasale"), Medium::Affiliate),
        ("aff_id=x", None, Medium::Affiliate),
        ("mc_cid=x", Some("mailchimp"), Medium::Email),
        ("_hsmi=x", Some("hubspot"), Medium::Email),
        ("s_kwcid=x", None, Medium::Ads),
        ("ef_id=x", None, Medium::Ads),
        ("fbclid=x&gclid=y", Some("google"), Medium::Ads),
    ] {
        let VisitCampaign { ad, click_id, .. } = of(query, NOWHERE);
        assert_eq!(click_id, Some(AdOrigin { source, medium }), "{query}");
        let ad = ad.unwrap();
        let kept = ad.click_ids.len() + usize::from(ad.gclid.is_some()) + usize::from(ad.fbclid.is_some());
        assert_eq!(kept, query.split('&').count(), "{query}");
    }
}

#[test]
fn what_names_a_person_is_no_fact() {
    for query in [
        "mc_eid=x",
        "_hsenc=x",
        "mkt_tok=x",
        "_kx=x",
        "vero_id=x",
        "ck_subscriber_id=x",
        "email=a",
        "utm_content=jane%40acme.example",
        "creative=jane@acme.example",
        "gclid=jane%40acme.example",
        "utm_term=jane%2540acme.example",
    ] {
        assert_eq!(of(query, NOWHERE), VisitCampaign::default(), "{query}");
    }
}

#[test]
fn aliases_stand_for_parameters_after_these() {
    let aliases = BTreeMap::from([
        ("Src".to_owned(), "utm_source".to_owned()),
        ("banner".to_owned(), "ad_creative".to_owned()),
        ("mc_eid".to_owned(), "utm_term".to_owned()),
        ("x".to_owned(), "nothing".to_owned()),
    ]);
    let parameters = Parameters::new(&aliases);
    let VisitCampaign { utm, ad, .. } = with(&parameters, Some("src=a&banner=b&mc_eid=c&x=d"), NOWHERE);
    assert_eq!(utm, Some(Utm { source: Some("a".into()), ..Utm::default() }));
    assert_eq!(ad.unwrap().referrer_ad_creative.as_deref(), Some("b"));
    let VisitCampaign { utm, .. } = with(&parameters, Some("src=a&utm_source=b"), NOWHERE);
    assert_eq!(utm.unwrap().source.as_deref(), Some("b"));
    for (alias, name, allowed) in [
        ("src", "utm_source", true),
        ("banner", "referrerAdCreative", true),
        ("", "utm_source", false),
        ("mc_eid", "utm_source", false),
        ("gclid", "utm_source", false),
        ("src", "nothing", false),
    ] {
        assert_eq!(refused_alias(alias, name).is_none(), allowed, "{alias} {name}");
    }
}

#[test]
fn nothing_said_is_nothing_told() {
    let parameters = Parameters::new(&BTreeMap::new());
    assert_eq!(with(&parameters, None, NOWHERE), VisitCampaign::default());
    for (query, destination) in [("a=1", "not a url"), ("", ""), ("&&=&==", "https://a.example/?#?utm_source=x")] {
        assert_eq!(of(query, destination), VisitCampaign::default());
    }
}

proptest! {
    #[test]
    fn any_query_gives_bounded_facts(
        query in "((utm_source|UTM_medium|creative|gclid|\\PC{0,8}|%[0-9a-f]{2})(=|%3D|&|%26|\\?|\\[\\]|amp;)?[%+@.{}]?){0,40}",
        destination in "\\PC{0,100}",
    ) {
        let VisitCampaign { utm, ad, .. } = of(&query, &destination);
        let (utm, ad) = (utm.unwrap_or_default(), ad.unwrap_or_default());
        let values = [utm.source, utm.medium, utm.campaign, utm.term, utm.content, ad.referrer_ad_creative, ad.gclid];
        for value in values.into_iter().flatten().chain(ad.click_ids.into_values()) {
            prop_assert!(!value.is_empty() && value.chars().count() <= text::MAX_CHARS);
            prop_assert!(!value.chars().any(char::is_control));
        }
    }

    #[test]
    fn any_referrer_is_cleaned_once(url in "(https://)?[a-z@:.]{0,9}(/|\\?|#|&|;|=|%[0-9a-f]{2}|mc_eid|a@b.cd|\\PC){0,30}") {
        let cleaned = without_persons(&url).into_owned();
        prop_assert!(cleaned.len() <= url.len() + 1);
        prop_assert_eq!(without_persons(&cleaned), cleaned.as_str());
    }
}
