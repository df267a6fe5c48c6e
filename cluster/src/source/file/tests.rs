//! Manifests that appear, change, break and vanish.

use std::fmt::Write as _;
use std::sync::Arc;

use super::*;
use crate::model::Name;

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec: {clusterIP: IP, ports: [{port: 80}]}\n---\n";

/// A directory of manifests under a follower; each step is (file, content or removal) and what it leads to.
struct Case {
    dir: tempfile::TempDir,
    follower: Follower,
}

// === impl Case ===

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let follower = Follower::new(dir.path().to_owned());
        Self { dir, follower }
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.dir.path().join(file), content).expect("write");
    }

    /// Polls until it has settled, and compares changes (`+name`, `-name`) and the number of refusals.
    fn check(&mut self, expected: &str, refused: usize, synced: bool) {
        let mut seen = String::new();
        let mut refusals = Vec::new();
        let mut last = false;
        for _ in 0..3 {
            let poll = self.follower.poll();
            for change in poll.changes {
                match change {
                    Change::Service(name, object) => {
                        let sign = if object.is_some() { '+' } else { '-' };
                        write!(seen, "{sign}{} ", name.name).expect("string");
                    }
                    other => panic!("{other:?}"),
                }
            }
            refusals.extend(poll.refused);
            last = poll.synced;
        }
        assert_eq!((seen.trim(), refusals.len(), last), (expected, refused, synced), "{refusals:?}");
    }
}

fn service(name: &str, ip: &str) -> String {
    SERVICE.replace("NAME", name).replace(" IP,", &format!(" {ip},"))
}

#[test]
fn files_come_change_and_go() {
    let mut case = Case::new();
    case.check("", 0, true);
    case.write("a.yaml", &(service("web", "10.96.0.1") + &service("api", "10.96.0.2")));
    case.write("notes.txt", "not: [yaml");
    case.write(".hidden.yaml", "not: [yaml");
    case.check("+api +web", 0, true);
    case.check("", 0, true);
    case.write("a.yaml", &(service("web", "10.96.0.3") + &service("api", "10.96.0.2")));
    case.check("+web", 0, true);
    case.write("a.yaml", &service("db", "10.96.0.4"));
    case.check("+db -api -web", 0, true);
    fs::remove_file(case.dir.path().join("a.yaml")).expect("remove");
    case.check("-db", 0, true);
}

#[test]
fn of_an_object_in_two_files_the_last_one_counts() {
    let mut case = Case::new();
    let address = |case: &Case| {
        let key = Key::Service(Name::new("default", "web"));
        match &case.follower.in_force(&[key])[..] {
            [Some(Object::Service(web))] => web.cluster_ips[0].to_string(),
            other => panic!("{other:?}"),
        }
    };
    case.write("a.yaml", &service("web", "10.96.0.1"));
    case.write("c.yaml", &(service("web", "10.96.0.3") + &service("api", "10.96.0.9")));
    case.check("+api +web", 0, true);
    assert_eq!(address(&case), "10.96.0.3");
    case.write("a.yaml", &service("web", "10.96.0.4"));
    case.check("", 0, true);
    case.write("b.yaml", &service("web", "10.96.0.2"));
    case.check("", 0, true);
    case.write("c.yaml", "{half-writ");
    case.check("", 1, true);
    assert_eq!(address(&case), "10.96.0.3", "a broken file keeps what it had");
    case.write("c.yaml", &service("api", "10.96.0.9"));
    case.check("+web", 0, true);
    assert_eq!(address(&case), "10.96.0.2", "the one before it counts now");
    case.write("a.yaml", &service("web", "10.96.0.2"));
    case.check("", 0, true);
    fs::remove_file(case.dir.path().join("b.yaml")).expect("remove");
    case.check("", 0, true);
    fs::remove_file(case.dir.path().join("a.yaml")).expect("remove");
    case.check("-web", 0, true);
    fs::remove_file(case.dir.path().join("c.yaml")).expect("remove");
    case.check("-api", 0, true);
}

#[test]
fn objects_that_stay_as_they_are_stay_the_same_memory() {
    let mut case = Case::new();
    let held = |case: &Case| {
        let objects = case.follower.files.values().flat_map(|tracked| tracked.objects.iter());
        let services = objects.map(|object| match object {
            Object::Service(service) => Arc::clone(service),
            other => panic!("{other:?}"),
        });
        services.collect::<Vec<_>>()
    };
    case.write("a.yaml", &(service("web", "10.96.0.1") + &service("api", "10.96.0.2")));
    case.write("b.yaml", &service("db", "10.96.0.3"));
    case.check("+api +db +web", 0, true);
    let before = held(&case);
    case.write("a.yaml", &(service("web", "10.96.0.4") + &service("api", "10.96.0.2")));
    case.check("+web", 0, true);
    let is_same: Vec<bool> = before.iter().zip(&held(&case)).map(|(before, after)| Arc::ptr_eq(before, after)).collect();
    assert_eq!(is_same, [true, false, true], "api, web, db");
}

#[test]
fn a_file_replaced_by_rename_is_seen() {
    let mut case = Case::new();
    case.write("a.yaml", &service("web", "10.96.0.1"));
    case.check("+web", 0, true);
    case.write("a.tmp", &service("web", "10.96.0.2"));
    fs::rename(case.dir.path().join("a.tmp"), case.dir.path().join("a.yaml")).expect("rename");
    case.check("+web", 0, true);
}

#[test]
fn a_broken_file_leaves_the_last_good_state() {
    let mut case = Case::new();
    case.write("a.yaml", &service("web", "10.96.0.1"));
    case.check("+web", 0, true);
    case.write("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: we");
    case.check("", 1, true);
    case.write("a.yaml", &service("web", "10.96.0.2"));
    case.check("+web", 0, true);
}

#[test]
fn an_object_that_makes_no_sense_leaves_its_last_good_state_and_its_neighbours() {
    let mut case = Case::new();
    case.write("a.yaml", &(service("web", "10.96.0.1") + &service("api", "10.96.0.2")));
    case.check("+api +web", 0, true);
    case.write("a.yaml", &(service("web", "nonsense") + &service("api", "10.96.0.9")));
    case.check("+api", 1, true);
    case.write("a.yaml", &service("web", "nonsense"));
    case.check("-api", 1, true);
}

#[test]
fn a_field_that_is_unknown_or_of_the_wrong_type_is_reported_once_and_keeps_the_last_good_state() {
    let mut case = Case::new();
    let misspelt = service("web", "10.96.0.9").replace("{clusterIP", "{clusterIPP: 10.96.0.9, clusterIP");
    case.write("a.yaml", &(misspelt.clone() + &service("api", "10.96.0.2")));
    let poll = case.follower.poll();
    assert_eq!(poll.changes.len(), 1, "only its neighbour");
    let [complaint] = &poll.refused[..] else { panic!("{:?}", poll.refused) };
    assert_eq!(complaint.file, case.dir.path().join("a.yaml"));
    assert_eq!(complaint.reason, "Service default/web: spec.clusterIPP: is no field that is known");
    case.check("", 0, true);
    case.write("a.yaml", &(service("web", "10.96.0.1") + &service("api", "10.96.0.2")));
    case.check("+web", 0, true);
    case.write("a.yaml", &(misspelt + &service("api", "10.96.0.3")));
    case.check("+api", 1, true);
    case.write("a.yaml", &(service("web", "10.96.0.1").replace("port: 80", "port: [80]") + &service("api", "10.96.0.3")));
    case.check("", 1, true);
    case.write("a.yaml", &service("api", "10.96.0.3"));
    case.check("-web", 0, true);
}

#[test]
fn a_file_broken_from_the_start_is_not_a_complete_listing() {
    let mut case = Case::new();
    case.write("a.yaml", "a: [");
    case.write("b.yaml", &service("web", "10.96.0.1"));
    case.check("+web", 1, false);
    case.write("a.yaml", &service("api", "10.96.0.2"));
    case.check("+api", 0, true);
}

#[test]
fn a_file_that_still_changes_is_not_believed() {
    let mut case = Case::new();
    case.write("a.yaml", &service("web", "10.96.0.1"));
    case.check("+web", 0, true);
    case.write("a.yaml", "");
    assert!(case.follower.poll().changes.is_empty(), "truncated a moment ago");
    case.write("a.yaml", &service("web", "10.96.0.2"));
    assert!(case.follower.poll().changes.is_empty(), "written a moment ago");
    assert_eq!(case.follower.poll().changes.len(), 1);
}

#[test]
fn an_object_cut_off_in_its_head_removes_nothing() {
    let mut case = Case::new();
    case.write("a.yaml", &service("web", "10.96.0.1"));
    case.check("+web", 0, true);
    for half in ["apiVersion: v1\nki", "apiVersion: v1\nkind: Serv", "apiVersion: v1\nkind: Service"] {
        case.write("a.yaml", half);
        case.check("", 1, true);
    }
    case.write("a.yaml", &service("api", "10.96.0.2"));
    case.check("+api -web", 0, true);
}

#[test]
fn a_missing_root_is_reported_once_and_keeps_the_state() {
    let mut case = Case::new();
    case.write("a.yaml", &service("web", "10.96.0.1"));
    case.check("+web", 0, true);
    let hidden = case.dir.path().with_extension("away");
    fs::rename(case.dir.path(), &hidden).expect("rename");
    case.check("", 1, true);
    fs::rename(&hidden, case.dir.path()).expect("rename back");
    case.check("", 0, true);
}

#[tokio::test]
async fn batches_follow_the_file_until_the_receiver_is_gone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("cluster.yaml");
    fs::write(&file, service("web", "10.96.0.1")).expect("write");
    let (sink, mut batches) = mpsc::channel(8);
    let task = tokio::spawn(run(file.clone(), sink));
    let wait = Duration::from_secs(10);
    let first = tokio::time::timeout(wait, batches.recv()).await.expect("in time").expect("batch");
    assert_eq!((first.changes.len(), first.synced), (1, true));
    fs::write(&file, service("web", "10.96.0.2")).expect("write");
    let second = tokio::time::timeout(wait, batches.recv()).await.expect("in time").expect("batch");
    assert_eq!((second.changes.len(), second.synced), (1, true));
    drop(batches);
    tokio::time::timeout(wait, task).await.expect("ends").expect("no panic");
}
