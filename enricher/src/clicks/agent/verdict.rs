//! Whether a user agent is a program's, and why. What a program looks like comes
//! before what it is called: a name that nobody knows yet is told by its shape.

use std::borrow::Cow;

use schemas::BotReason;
use woothee::parser::WootheeResult;

use super::{
    signs::{Platform, Signs},
    version,
};

/// The reason for which a visit counts as a program's, with its detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BotVerdict<'a> {
    pub(super) reason: BotReason,
    pub(super) detail: Option<&'a str>,
}

impl BotVerdict<'_> {
    /// Returns the fact `bot_reason`: the reason, and its detail behind a colon.
    pub(super) fn text(&self) -> Cow<'static, str> {
        match self.detail {
            Some(detail) if !detail.is_empty() => format!("{}:{detail}", self.reason).into(),
            _ => self.reason.as_str().into(),
        }
    }
}

/// Judges a user agent: by the names that are known, which say the most, and else by its
/// shape. `known` is what woothee found.
pub(super) fn judge<'a>(text: &'a str, signs: &Signs<'a>, known: WootheeVerdict<'a>) -> Option<BotVerdict<'a>> {
    by_name(signs).or_else(|| by_shape(text, signs, known))
}

/// Judges a user agent by the names in `tables/`.
fn by_name<'a>(signs: &Signs<'a>) -> Option<BotVerdict<'a>> {
    let named = |reason, name: Option<&'a str>| name.map(|name| BotVerdict { reason, detail: Some(name) });
    named(BotReason::AiAgent, signs.assistant)
        .or_else(|| named(BotReason::Preview, signs.preview))
        .or_else(|| named(BotReason::Crawler, signs.crawler))
        .or_else(|| named(BotReason::Word, signs.word))
}

/// Judges a user agent without the names in `tables/`, as that of a program that came
/// after them. Words such as `bot` and `crawler` are part of a shape.
pub(super) fn by_shape<'a>(text: &'a str, signs: &Signs<'a>, known: WootheeVerdict<'a>) -> Option<BotVerdict<'a>> {
    let verdict = |reason, detail| Some(BotVerdict { reason, detail });
    if let Some(name) = signs.crawler.or(known.crawler) {
        return verdict(BotReason::Crawler, Some(name));
    }
    if signs.link {
        return verdict(BotReason::Link, None);
    }
    if signs.compatible && !signs.compatible_browser {
        return verdict(BotReason::Compatible, None);
    }
    if !signs.engine && !known.old_phone {
        return verdict(BotReason::NoBrowser, None);
    }
    if is_impossible(text, signs) {
        return verdict(BotReason::Impossible, None);
    }
    None
}

/// The parts of woothee's answer that a verdict needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct WootheeVerdict<'a> {
    /// The name of the crawler that it is.
    pub(super) crawler: Option<&'a str>,
    /// Whether it is a phone or an appliance from before browsers named their engines.
    pub(super) old_phone: bool,
}

impl<'a> WootheeVerdict<'a> {
    pub(super) fn new(found: &WootheeResult<'a>) -> Self {
        Self {
            crawler: (found.category == "crawler").then_some(found.name),
            old_phone: matches!(found.category, "mobilephone" | "appliance"),
        }
    }
}

/// Whether no browser can send this. Browsers on iOS have Safari's engine and never say
/// `Chrome/`, and a version of Chrome has the builds of its branch.
fn is_impossible(text: &str, signs: &Signs<'_>) -> bool {
    let Some(chrome) = signs.chrome else { return false };
    let on_ios = matches!(signs.platform, Some(Platform::Iphone | Platform::Ipad));
    on_ios && !signs.ios_browser && !signs.compatible_browser || version::chrome_build_is_impossible(&text[chrome..])
}
