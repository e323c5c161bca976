//! The tokens of operating systems and devices.

/// Systems that woothee does not know or mistakes. The version stands behind the token.
pub(crate) const SYSTEMS: &[(&str, System)] = &[
    ("kaios/", System::mobile("KaiOS")),
    ("windows phone os ", System::mobile("Windows Phone")),
    ("windows phone ", System::mobile("Windows Phone")),
    ("windows mobile", System::mobile("Windows Mobile")),
    ("windows ce", System::mobile("Windows Mobile")),
    ("openharmony ", System::mobile("HarmonyOS")),
    ("harmonyos", System::mobile("HarmonyOS")),
    ("playstation 5/", System::console("PlayStation")),
    ("playstation 5", System::console("PlayStation")),
    ("playstation 4", System::console("PlayStation")),
    ("playstation 3", System::console("PlayStation")),
    ("playstation vita", System::console("PlayStation")),
    ("playstation portable", System::console("PlayStation")),
    ("nintendo switch", System::console("Nintendo")),
    ("nintendo wiiu", System::console("Nintendo")),
    ("nintendo wii", System::console("Nintendo")),
    ("nintendo 3ds", System::console("Nintendo")),
    ("nintendo dsi", System::console("Nintendo")),
    ("|xbox", System::console("Xbox")),
    ("web0s", System::television("webOS")),
    ("webos.tv-", System::television("webOS")),
    ("|netcast", System::television("NetCast")),
    ("tvos", System::television("tvOS")),
    ("appletv", System::television("tvOS")),
    ("vidaa/", System::television("VIDAA")),
    ("|roku", System::television("Roku OS")),
    ("tizen ", System::of("Tizen")),
    ("|tizen/", System::of("Tizen")),
    ("|bada/", System::mobile("Bada")),
    ("|bb10", System::mobile("BlackBerry OS")),
    ("blackberry", System::mobile("BlackBerry OS")),
    ("symbian", System::mobile("Symbian")),
    ("series 60", System::mobile("Symbian")),
    ("|series60", System::mobile("Symbian")),
    ("|s60/", System::mobile("Symbian")),
    ("|meego", System::mobile("MeeGo")),
    ("webos/", System::of("webOS")),
    ("hpwos/", System::of("webOS")),
    ("|sailfish", System::mobile("Sailfish OS")),
    ("|brew", System::mobile("Brew")),
];

/// A system, and the device that it runs on where that is certain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    pub(crate) device: Option<&'static str>,
}

impl System {
    const fn of(name: &'static str) -> Self {
        Self { name, device: None }
    }

    const fn mobile(name: &'static str) -> Self {
        Self { name, device: Some("mobile") }
    }

    const fn console(name: &'static str) -> Self {
        Self { name, device: Some("appliance") }
    }

    const fn television(name: &'static str) -> Self {
        Self { name, device: Some("tv") }
    }
}

/// Tokens of televisions and of boxes beside them.
pub(crate) const TELEVISIONS: &[&str] = &[
    "smart-tv",
    "smarttv",
    "smart_tv",
    "smart tv",
    "smarthub",
    "googletv",
    "google tv",
    "android tv",
    "androidtv",
    "apple tv",
    "|tv|",
    "hbbtv",
    "bravia",
    "; aft",
    "crkey",
    "opera tv",
    "| omi/",
    "|viera",
    "|philipstv",
    "netrangetv",
    "mitv",
    "mibox",
    "sonydtv",
    "|dtv",
    "inettvbrowser",
    "espial",
    "nettv",
    "|maple",
    "ce-html",
    "tvbox",
    "tv box",
    "|tv_",
    "-tv|",
    "_tv|",
    "aosp tv",
    "leanback",
    "|stb",
    "chromecast",
    "web0s",
    "netcast",
    "large screen",
    "pov_tv",
    "tsbnettv",
    "aquos-tv",
    "|bdp",
    "shield android",
];

/// Tokens of tablets in the model of an Android device.
pub(crate) const TABLETS: &[&str] = &[
    "|sm-t",
    "|sm-x",
    "|sm-p5",
    "|sm-p6",
    "|gt-p",
    "|gt-n8",
    "|gt-n51",
    "|sch-i800",
    "|tab|",
    "|tab_",
    "tablet",
    "pad|",
    "|pad",
    "ipad",
    "mediapad",
    "matepad",
    "|tb-",
    "|tb1",
    "|tb3",
    "|tb8",
    "lenovo tab",
    "|yt3-",
    "|yt-",
    "; kf",
    "nexus 7",
    "nexus 9",
    "nexus 10",
    "pixel c|",
    "xoom",
    "transformer",
    "|tf1",
    "|tf2",
    "|tf3",
    "|sht-",
    "|bah",
    "|ags",
    "|kob",
    "|jdn",
    "|scm-",
    "|mrx-",
    "|btv-",
    "|cmr-",
    "|bzt-",
    "|dby-",
    "iconia",
    "|a1-8",
    "|b3-a",
    "|me1",
    "|me3",
    "|k01",
    "|p01",
    "|p02",
    "playbook",
    "|lifetab",
    "|tab-",
    "tab a",
    "tab s",
    "tab m",
    "|9inch",
];
