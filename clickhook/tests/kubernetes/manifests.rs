//! Rendering: every overlay, and one with all components, as JSON objects that the schemas
//! of three Kubernetes versions and of other projects accept.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use serde_json::Value;

/// The objects of an overlay.
pub(crate) struct Rendered {
    pub(crate) name: String,
    pub(crate) objects: Vec<Value>,
}

/// Every overlay, and `everything`: production with all components.
pub(crate) static ALL: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("k8s");
    copy_folder(&repository().join("k8s"), &copy);
    let production = fs::read_to_string(copy.join("overlays/production/kustomization.yaml")).unwrap();
    let further = folders(&copy.join("components"))
        .into_iter()
        .filter(|name| !production.contains(&format!("components/{name}")));
    let components: String = further.map(|name| format!("  - ../../components/{name}\n")).collect();
    let everything = copy.join("overlays/everything");
    fs::create_dir(&everything).unwrap();
    let text = production.replace("components:\n", &format!("components:\n{components}"));
    fs::write(everything.join("kustomization.yaml"), text).unwrap();
    for entry in fs::read_dir(copy.join("overlays/production")).unwrap() {
        let from = entry.unwrap().path();
        let to = everything.join(from.file_name().unwrap());
        if !to.exists() {
            fs::copy(&from, to).unwrap();
        }
    }
    let files: Vec<PathBuf> = folders(&copy.join("overlays"))
        .into_iter()
        .map(|overlay| {
            let output = kubectl(&["kustomize", copy.join("overlays").join(&overlay).to_str().unwrap()]);
            let file = dir.path().join(format!("{overlay}.yaml"));
            fs::write(&file, output.stdout).unwrap();
            file
        })
        .collect();
    let answer = validate(&files);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let mut answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    println!("validated for Kubernetes {}", answer["versions"]);
    let documents: BTreeMap<PathBuf, Vec<Value>> = serde_json::from_value(answer["documents"].take()).unwrap();
    documents
        .into_iter()
        .map(|(file, objects)| Rendered { name: file.file_stem().unwrap().to_str().unwrap().to_owned(), objects })
        .collect()
});

impl Rendered {
    /// Returns the objects of a kind.
    pub(crate) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// Returns the object of a kind with a name.
    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// Returns what makes pods: stateful sets and jobs.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| object["spec"]["template"]["spec"]["containers"].is_array())
    }

    /// Returns the workloads whose pods run clickhook.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &Value> {
        self.workloads().filter(|workload| pod(workload)["containers"][0]["name"] == "clickhook")
    }
}

/// Returns the pod of a workload.
pub(crate) fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

/// Returns the entries of a list, none where there is no list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns the text of a value.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns a kind and a name for messages.
pub(crate) fn title(object: &Value) -> String {
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// Returns the names of the folders in a folder.
pub(crate) fn folders(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns the repository's folder.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the folder of the tools, which `scripts/engines --tests` installs.
fn tools() -> PathBuf {
    let root = repository().join(".engines");
    let dir = std::env::var_os("CLICKHOOK_ENGINES_DIR").map_or(root, PathBuf::from).join("kubernetes");
    assert!(dir.join(".stamp").exists(), "{} is missing: run scripts/engines --tests", dir.display());
    dir
}

/// Runs kubectl, which must succeed. It is given no cluster.
pub(crate) fn kubectl(args: &[&str]) -> Output {
    let output = Command::new(tools().join("bin/kubectl")).args(args).env("KUBECONFIG", "/dev/null").output().unwrap();
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn validate(files: &[PathBuf]) -> Output {
    let script = repository().join("clickhook/tests/kubernetes/validate.py");
    let crds = tools().join("crds");
    Command::new(tools().join("bin/python3")).arg(script).arg(crds).args(files).output().unwrap()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_overlay_is_valid() {
    let names: Vec<&str> = ALL.iter().map(|rendered| rendered.name.as_str()).collect();
    assert_eq!(names, ["evaluation", "everything", "production"]);
}

#[test]
fn what_a_schema_does_not_know_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.yaml");
    for (wrong, named) in [
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {prots: []}\n", "prots"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: http}]}\n", "http"),
        ("apiVersion: v1\nkind: Sevice\nmetadata: {name: x}\n", "Sevice"),
        (
            "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: x}\nspec: {scaleTargetRef: {name: x}, triggers: [], maxReplicas: 3}\n",
            "maxReplicas",
        ),
        (
            "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: x}\nspec: {selector: {}, podMetricEndpoints: []}\n",
            "podMetricEndpoints",
        ),
    ] {
        fs::write(&file, wrong).unwrap();
        let answer = validate(std::slice::from_ref(&file));
        let told = String::from_utf8_lossy(&answer.stderr);
        assert!(!answer.status.success() && told.contains(named), "{wrong}: {told}");
    }
}
