//! The container image: the steps of `Containerfile`, without a container engine. The root
//! that they make holds all that the program needs to run as the image's user.

use std::{fs, path::Path, process::Command};

use crate::manifests::{ALL, pod, repository};

const BINARY: &str = env!("CARGO_BIN_EXE_clickhook");

fn run_inside(root: &Path, user: &str, args: &[&str]) -> String {
    let is_root = String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap().trim() == "0";
    // Without root, a user namespace has one user.
    let mut command = if is_root {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={user}"));
        command
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
        command
    };
    let output = command
        .arg(root)
        .arg("/usr/bin/clickhook")
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn containerfile() -> String {
    fs::read_to_string(repository().join("Containerfile")).unwrap()
}

/// Returns the rest of the last line that begins with an instruction.
fn instruction<'t>(text: &'t str, name: &str) -> &'t str {
    let line = text.lines().rfind(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).split_once(' ').unwrap().1
}

#[test]
fn the_program_runs_in_the_image_as_its_user() {
    let dir = tempfile::tempdir().unwrap();
    // The user of the image looks into it.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let root = dir.path().join("image");
    let made =
        Command::new(repository().join("scripts/image")).arg("assemble").arg(BINARY).arg(&root).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = containerfile();
    let user = instruction(&text, "USER");
    assert_eq!(instruction(&text, "ENTRYPOINT"), "[\"/usr/bin/clickhook\"]");
    let version = run_inside(&root, user, &["--version"]);
    assert!(text.contains(&format!("version=\"{}\"", version.trim().trim_start_matches("clickhook "))), "{version}");
    assert!(run_inside(&root, user, &["check-config"]).contains("[kafka]"));
    let sbom = text.lines().find_map(|line| line.trim().strip_prefix("clickhook.sbom=\"")).unwrap();
    assert!(root.join(sbom.trim_matches(['/', '"'])).exists());
    for absent in ["bin/sh", "usr/bin/sh", "usr/bin/bash", "usr/bin/java", "usr/lib/jvm"] {
        assert!(!root.join(absent).exists(), "{absent} is in the image");
    }
}

#[test]
fn the_image_and_the_manifests_agree() {
    let text = containerfile();
    let user = instruction(&text, "USER").split(':').next().unwrap();
    for rendered in ALL.iter() {
        for role in rendered.roles() {
            assert_eq!(pod(role)["securityContext"]["runAsUser"].to_string(), user);
            let image = pod(role)["containers"][0]["image"].as_str().unwrap();
            assert_eq!(image, format!("clickhook:{}", env!("CARGO_PKG_VERSION")));
        }
    }
    for from in text.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        assert!(from == "scratch" || from.contains(':') && !from.contains("latest"), "{from}");
    }
}
