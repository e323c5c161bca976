//! The facts of a visit's user agent together with its hints, and contradictions between
//! the two. Contradictions are only counted: a proxy may strip headers, and nobody knows
//! yet how often people's do.

use std::borrow::Cow;

use schemas::hints::{Brand, FetchKind, HintPlatform, Hints};

use super::signs::Platform;

/// The facts in a user agent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) device: Option<&'static str>,
    pub(crate) browser: Option<Cow<'static, str>>,
    pub(crate) browser_version: Option<Box<str>>,
    pub(crate) os: Option<Cow<'static, str>>,
    pub(crate) os_version: Option<Box<str>>,
    /// The app whose own browser this is, by the name that a source of visits has.
    pub(crate) app: Option<&'static str>,
    pub(super) platform: Option<Platform>,
    /// Whether a browser of this version sends `Sec-Fetch-…` over HTTPS.
    pub(super) sends_fetch_headers: bool,
    /// The reason why the agent is a program's.
    pub(crate) bot_reason: Option<Cow<'static, str>>,
}

/// The facts of a visit's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HintedAgent<'a> {
    pub(crate) device: Option<&'a str>,
    pub(crate) browser: Option<&'a str>,
    pub(crate) os: Option<&'a str>,
    pub(crate) os_version: Option<&'a str>,
}

/// A contradiction between a person's user agent and its hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contradiction {
    /// The browser runs without a window, and says so in its brands alone.
    Headless,
    /// The platform is not the user agent's.
    Platform,
    /// A browser that sends `Sec-Fetch-…` over HTTPS has sent none.
    NoFetchHeaders,
}

impl Contradiction {
    /// The name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Headless => "headless",
            Self::Platform => "platform",
            Self::NoFetchHeaders => "no_fetch_headers",
        }
    }
}

impl Agent {
    /// Returns the facts that the agent and its hints tell together.
    pub(crate) fn with_hints(&self, hints: Hints) -> HintedAgent<'_> {
        let mut facts = HintedAgent {
            device: self.device,
            browser: self.browser.as_deref(),
            os: self.os.as_deref(),
            os_version: self.os_version.as_deref(),
        };
        if self.bot_reason.is_some() {
            return facts;
        }
        // A brand tells more only where the agent says no more than the engine's name.
        if let (Some("Chrome" | "Webview"), Some(brand)) = (facts.browser, hints.brand)
            && let Some(name) = browser(brand)
        {
            facts.browser = Some(name);
        }
        // Desktop mode and headsets say that they are desktops with Linux.
        if self.platform == Some(Platform::Linux) && facts.device == Some("desktop") {
            match hints.platform {
                Some(HintPlatform::Android) => {
                    let device = if hints.mobile == Some(true) { "mobile" } else { "tablet" };
                    (facts.os, facts.os_version, facts.device) = (Some("Android"), None, Some(device));
                }
                Some(HintPlatform::ChromeOs) => facts.os = Some("ChromeOS"),
                _ => {}
            }
        }
        facts
    }

    /// Whether the hints say that somebody follows a link in the browser of this agent.
    pub(crate) fn navigates(&self, hints: Hints) -> bool {
        let says_so = self.sends_fetch_headers && hints.fetch == Some(FetchKind::Navigate);
        says_so && self.contradiction(hints).is_none()
    }

    /// Returns how the hints contradict the agent of a person, if they do.
    pub(crate) fn contradiction(&self, hints: Hints) -> Option<Contradiction> {
        if self.bot_reason.is_some() {
            return None;
        }
        if hints.brand == Some(Brand::Headless) {
            return Some(Contradiction::Headless);
        }
        let agrees = match (self.platform, hints.platform) {
            (Some(Platform::Windows), Some(platform)) => platform == HintPlatform::Windows,
            (Some(Platform::Mac), Some(platform)) => platform == HintPlatform::Macos,
            (Some(Platform::Android), Some(platform)) => {
                matches!(platform, HintPlatform::Android | HintPlatform::ChromeOs)
            }
            (Some(Platform::ChromeOs), Some(platform)) => platform == HintPlatform::ChromeOs,
            (Some(Platform::Linux), Some(platform)) => {
                matches!(platform, HintPlatform::Linux | HintPlatform::Android | HintPlatform::ChromeOs)
            }
            // No browser on iOS sends the header.
            (Some(Platform::Iphone | Platform::Ipad), Some(_)) => false,
            (None, _) | (_, None) => true,
        };
        if !agrees {
            return Some(Contradiction::Platform);
        }
        let is_missing = self.sends_fetch_headers && hints.fetch == Some(FetchKind::Missing);
        is_missing.then_some(Contradiction::NoFetchHeaders)
    }
}

/// Returns the name of a browser that a brand tells.
const fn browser(brand: Brand) -> Option<&'static str> {
    Some(match brand {
        Brand::Avast => "Avast Secure Browser",
        Brand::Avg => "AVG Secure Browser",
        Brand::Avira => "Avira Secure Browser",
        Brand::Ccleaner => "CCleaner Browser",
        Brand::Norton => "Norton Private Browser",
        Brand::Headless => return None,
        named => named.as_str(),
    })
}
