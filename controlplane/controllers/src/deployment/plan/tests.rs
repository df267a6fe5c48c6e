//! Tables of sizes: fenceposts, steps of rollouts, shares of scaling.

use serde_json::{Value, json};

use super::*;

/// A set written as `name size/available`, made in the order of the list.
fn sets(list: &[&str]) -> Vec<Set> {
    let parse = |(index, text): (usize, &&str)| {
        let (name, numbers) = text.split_once(' ').unwrap();
        let (size, available) = numbers.split_once('/').unwrap();
        Set {
            name: name.to_owned(),
            created: Timestamp::from_second(i64::try_from(index).unwrap()).unwrap(),
            size: size.parse().unwrap(),
            available: available.parse().unwrap(),
            desired: None,
            max: None,
        }
    };
    list.iter().enumerate().map(parse).collect()
}

fn split(sets: &[Set]) -> (Option<&Set>, Vec<&Set>) {
    (sets.iter().find(|set| set.name == "new"), sets.iter().filter(|set| set.name != "new").collect())
}

fn text(sizes: &Sizes) -> String {
    sizes.iter().map(|(name, size)| format!("{name}={size}")).collect::<Vec<_>>().join(" ")
}

fn rolling(replicas: i32, surge: i32, unavailable: i32) -> Wanted {
    Wanted { replicas, surge, unavailable, rolling: true }
}

#[test]
fn fenceposts() {
    let check = |replicas: i32, surge: Value, unavailable: Value, expected: (i32, i32)| {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let deployment: Deployment = serde_json::from_value(
            json!({"metadata": {}, "spec": {"replicas": replicas, "strategy": strategy, "selector": {}, "template": {}}}),
        )
        .unwrap();
        let wanted = Wanted::of(&deployment);
        assert_eq!((wanted.surge, wanted.unavailable), expected, "{replicas} {surge} {unavailable}");
    };
    check(10, json!("25%"), json!("25%"), (3, 2));
    check(4, json!("25%"), json!("25%"), (1, 1));
    check(1, json!("25%"), json!("25%"), (1, 0));
    check(3, json!(2), json!(1), (2, 1));
    check(3, json!(0), json!(0), (0, 1));
    check(3, json!("0%"), json!("10%"), (0, 1));
    check(2, json!(1), json!(5), (1, 2));
    check(10, json!("100%"), json!("0%"), (10, 0));
    check(0, json!("25%"), json!("25%"), (0, 0));
    check(5, json!("nonsense"), json!("-7%"), (0, 1));
    let recreate =
        json!({"metadata": {}, "spec": {"replicas": 3, "strategy": {"type": "Recreate"}, "selector": {}, "template": {}}});
    let wanted = Wanted::of(&serde_json::from_value(recreate).unwrap());
    assert_eq!((wanted.max(), wanted.min_available(), wanted.rolling), (3, 3, false));
}

#[test]
fn one_step_of_a_rolling_update() {
    let check = |wanted: Wanted, list: &[&str], expected: &str| {
        let sets = sets(list);
        let (new, old) = split(&sets);
        assert_eq!(text(&roll(&wanted, new.unwrap(), &old)), expected, "{wanted:?} {list:?}");
    };
    // The new set grows into the surge, and no further.
    check(rolling(10, 3, 2), &["old 10/10", "new 0/0"], "new=3");
    check(rolling(10, 3, 2), &["old 8/8", "new 3/0"], "new=5");
    check(rolling(10, 0, 2), &["old 10/10", "new 0/0"], "old=8");
    check(rolling(10, 0, 2), &["old 8/8", "new 0/0"], "new=2");
    // Old ones go only as far as enough are available.
    check(rolling(10, 3, 2), &["old 10/10", "new 3/0"], "old=8");
    check(rolling(10, 3, 2), &["old 8/8", "new 5/0"], "");
    check(rolling(10, 3, 2), &["old 8/8", "new 5/2"], "old=6");
    check(rolling(10, 3, 2), &["old 8/8", "new 5/5"], "old=3");
    check(rolling(4, 1, 0), &["old 4/4", "new 1/0"], "");
    check(rolling(4, 1, 0), &["old 4/4", "new 1/1"], "old=3");
    // Those that do not serve are no loss.
    check(rolling(10, 3, 2), &["old 10/8", "new 3/0"], "old=8");
    check(rolling(4, 1, 1), &["bad 2/0", "old 3/3", "new 0/0"], "bad=0");
    check(rolling(4, 1, 1), &["older 2/2", "old 2/2", "new 1/1"], "older=0");
    // More than wanted is taken back; the end is reached.
    check(rolling(3, 1, 1), &["old 2/2", "new 5/5"], "new=3");
    check(rolling(3, 1, 1), &["old 0/0", "new 3/3"], "");
    check(rolling(0, 0, 0), &["old 2/2", "new 0/0"], "old=0");
}

/// Runs a rollout to its end, pods becoming available at once, and returns `new/old` after each step.
fn rollout(wanted: Wanted, old: i32) -> String {
    let mut sets = sets(&[&format!("old {old}/{old}"), "new 0/0"]);
    let mut steps = Vec::new();
    loop {
        let (new, old) = split(&sets);
        let sizes = roll(&wanted, new.unwrap(), &old);
        if sizes.is_empty() {
            return steps.join(" ");
        }
        for set in &mut sets {
            set.size = sizes.get(&set.name).copied().unwrap_or(set.size);
            set.available = set.size;
        }
        let total: i32 = sets.iter().map(|set| set.size).sum();
        assert!(total <= wanted.max() && total >= wanted.min_available(), "{total} pods with {wanted:?}");
        steps.push(format!("{}/{}", sets[1].size, sets[0].size));
        assert!(steps.len() < 100, "no end: {steps:?}");
    }
}

#[test]
fn whole_rollouts() {
    assert_eq!(rollout(rolling(3, 1, 0), 3), "1/3 1/2 2/2 2/1 3/1 3/0");
    assert_eq!(rollout(rolling(4, 0, 1), 4), "0/3 1/3 1/2 2/2 2/1 3/1 3/0 4/0");
    assert_eq!(rollout(rolling(10, 3, 2), 10), "3/10 3/5 8/5 8/0 10/0");
    assert_eq!(rollout(rolling(2, 2, 0), 2), "2/2 2/0");
    assert_eq!(rollout(rolling(1, 1, 0), 1), "1/1 1/0");
}

#[test]
fn scaling_in_the_middle_of_a_rollout() {
    // Sets as they were sized for `before` replicas with that surge.
    let check = |wanted: Wanted, before: (i32, i32), list: &[&str], expected: &str| {
        let mut sets = sets(list);
        for set in &mut sets {
            (set.desired, set.max) = (Some(before.0), Some(before.0 + before.1));
        }
        let (new, old) = split(&sets);
        assert!(scaled(&wanted, &sets.iter().collect::<Vec<_>>()), "{wanted:?} {list:?}");
        assert_eq!(text(&scale(&wanted, new, &old)), expected, "{wanted:?} {list:?}");
    };
    // One living set takes the number as it is.
    check(rolling(5, 2, 1), (3, 1), &["old 0/0", "new 3/3"], "new=5");
    check(rolling(0, 0, 0), (3, 1), &["new 3/3"], "new=0");
    check(rolling(5, 2, 1), (3, 1), &["old 3/3", "new 0/0"], "old=5");
    // Several share: 10 -> 15 with the surge of 3 kept at 8 + 5 = 13 -> 18.
    check(rolling(15, 3, 2), (10, 3), &["old 8/8", "new 5/5"], "new=7 old=11");
    check(rolling(5, 3, 2), (10, 3), &["old 8/8", "new 5/5"], "new=3 old=5");
    check(rolling(0, 0, 0), (10, 3), &["old 8/8", "new 5/5"], "new=0 old=0");
    // Of equals, the newest grows by what is left, and the oldest shrinks.
    check(rolling(5, 0, 1), (4, 0), &["old 2/2", "new 2/2"], "new=3 old=2");
    check(rolling(3, 0, 1), (4, 0), &["old 2/2", "new 2/2"], "new=2 old=1");
    // Sets that do not share in a recreation are brought down by its steps.
    check(Wanted { rolling: false, ..rolling(5, 0, 0) }, (4, 0), &["old 2/2", "new 2/2"], "");
}

#[test]
fn unscaled_sets_are_left_to_the_rollout() {
    let mut list = sets(&["old 0/0", "new 3/3"]);
    list[0].desired = Some(7);
    list[1].desired = Some(3);
    assert!(!scaled(&rolling(3, 1, 1), &list.iter().collect::<Vec<_>>()), "an empty set remembers other times");
}

#[test]
fn recreation() {
    let wanted = Wanted { replicas: 3, surge: 0, unavailable: 0, rolling: false };
    let check = |list: &[&str], old_pods: bool, expected: &str| {
        let sets = sets(list);
        let (new, old) = split(&sets);
        assert_eq!(text(&recreate(&wanted, new, &old, old_pods)), expected, "{list:?} {old_pods}");
    };
    check(&["old 3/3"], true, "old=0");
    check(&["old 3/3", "new 0/0"], true, "old=0");
    check(&["old 0/0", "new 0/0"], true, "");
    check(&["old 0/0", "new 0/0"], false, "new=3");
    check(&["old 0/0", "new 3/3"], false, "");
}
