//! Hints: the facts of a visit's `Sec-CH-UA…` and `Sec-Fetch-…` headers that its user
//! agent does not tell. The redirector concludes them, and writes them as one short text
//! into the visit's line: `b=Brave,p=Android,m=1,f=nav`.

/// The hints of a visit. The default is a visit that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The browser, where its user agent may not name it.
    pub brand: Option<Brand>,
    /// The platform.
    pub platform: Option<HintPlatform>,
    /// Whether the browser prefers a mobile page.
    pub mobile: Option<bool>,
    /// The kind of request.
    pub fetch: Option<FetchKind>,
}

macro_rules! texts {
    ($(#[$doc:meta])* $type:ident { $($variant:ident = $text:literal $(| $other:literal)*;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is the thing of that name")]
        pub enum $type { $($variant,)* }

        impl $type {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in a line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Reads the name that a header or a line gives.
            #[must_use]
            pub fn named(text: &[u8]) -> Option<Self> {
                $(if text == $text.as_bytes() $(|| text == $other.as_bytes())* { return Some(Self::$variant); })*
                None
            }
        }
    };
}

texts! {
    /// A brand of Chromium that names the browser. Those that say no more than the user
    /// agent (Chromium, Google Chrome, `WebView`) are none.
    Brand {
        Brave = "Brave" | "Brave Browser";
        DuckDuckGo = "DuckDuckGo";
        Avast = "Avast Secure Browser" | "AvastSecureBrowser" | "Avast";
        Avg = "AVG Secure Browser" | "AVGSecureBrowser" | "AVG";
        Avira = "Avira Secure Browser" | "AviraSecureBrowser" | "Avira";
        Ccleaner = "CCleaner Browser" | "CCleaner";
        Norton = "Norton Private Browser" | "Norton Secure Browser" | "Norton";
        Edge = "Edge" | "Microsoft Edge" | "Microsoft Edge WebView2";
        Opera = "Opera" | "OperaMobile";
        OperaGx = "Opera GX";
        Samsung = "SamsungBrowser" | "Samsung Internet";
        Yandex = "Yandex Browser" | "YaBrowser" | "Yandex";
        Vivaldi = "Vivaldi";
        Whale = "Whale" | "NAVER Whale";
        Oculus = "Oculus Browser" | "Meta Quest Browser";
        Huawei = "Huawei Browser" | "HuaweiBrowser";
        Mi = "Mi Browser" | "MiuiBrowser";
        Ecosia = "Ecosia" | "Ecosia Browser";
        Aloha = "Aloha" | "AlohaBrowser" | "Aloha Browser";
        Headless = "HeadlessChrome";
    }
}

texts! {
    /// A platform.
    HintPlatform {
        Android = "Android";
        ChromeOs = "ChromeOS" | "Chrome OS" | "Chromium OS";
        Linux = "Linux";
        Macos = "macOS";
        Windows = "Windows";
    }
}

texts! {
    /// The kind of a request, by `Sec-Fetch-Mode`.
    FetchKind {
        Navigate = "nav" | "navigate";
        Other = "other" | "cors" | "no-cors" | "same-origin" | "websocket";
        // Over HTTPS, where every later browser says it.
        Missing = "none";
    }
}

impl Hints {
    /// Appends the hints as text, which needs no escapes in JSON.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mobile = self.mobile.map(|mobile| if mobile { "1" } else { "0" });
        let parts = [
            ("b=", self.brand.map(Brand::as_str)),
            ("p=", self.platform.map(HintPlatform::as_str)),
            ("m=", mobile),
            ("f=", self.fetch.map(FetchKind::as_str)),
        ];
        let mut separator: &[u8] = b"";
        for (key, value) in parts {
            let Some(value) = value else { continue };
            out.extend_from_slice(separator);
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value.as_bytes());
            separator = b",";
        }
    }

    /// Reads hints from a line. Parts that this version does not know are left out.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut hints = Self::default();
        for (key, value) in text.split(',').filter_map(|part| part.split_once('=')) {
            match key {
                "b" => hints.brand = Brand::named(value.as_bytes()),
                "p" => hints.platform = HintPlatform::named(value.as_bytes()),
                "m" => hints.mobile = Some(value == "1"),
                "f" => hints.fetch = FetchKind::named(value.as_bytes()),
                _ => {}
            }
        }
        hints
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for brand in Brand::ALL.iter().copied().map(Some).chain([None]) {
            for platform in HintPlatform::ALL.iter().copied().map(Some).chain([None]) {
                for fetch in FetchKind::ALL.iter().copied().map(Some).chain([None]) {
                    for mobile in [None, Some(true), Some(false)] {
                        let hints = Hints { brand, platform, mobile, fetch };
                        let mut text = Vec::new();
                        hints.write_to(&mut text);
                        let text = String::from_utf8(text).unwrap();
                        assert_eq!(Hints::read(&text), hints, "{text}");
                        assert_eq!(serde_json::to_string(&text).unwrap(), format!("\"{text}\""));
                        assert!(text.len() <= 64, "{text}");
                        assert_eq!(hints.is_empty(), text.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_later_version_adds_is_left_out() {
        let hints = Hints::read("x=1,b=Newcomer,p=Android,f=nav,=,m");
        assert_eq!(
            hints,
            Hints { platform: Some(HintPlatform::Android), fetch: Some(FetchKind::Navigate), ..Hints::default() }
        );
    }
}
