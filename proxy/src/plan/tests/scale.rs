//! Large services: what planning costs is in proportion to their endpoints.

use std::time::{Duration, Instant};

use thalweg_cluster::{Change, Dirty};

use super::super::*;
use super::words::{name, service, slice, view};

// cilium#24027: a service of thousands of endpoints is nothing special.
#[test]
fn a_service_of_ten_thousand_endpoints() {
    let mut world = World::default();
    let dirty = &mut Dirty::default();
    let web = name("shop/web");
    let object = service("shop/web", "vip vip6 a=80/tcp:30080 b=81/tcp lb~lb external-local".split(' '));
    world.apply(Change::Service(web.clone(), Some(Arc::new(object))), dirty);
    // A hundred to the slice, as the controller writes them.
    for index in 0..100 {
        let net = if index == 0 { 1 } else { index + 10 };
        let endpoints: Vec<String> = (1..=100).map(|host| format!("{net}.{host}")).collect();
        let slice = slice(index, &web, &format!("a=8080/tcp b=8081/tcp | {}", endpoints.join(" ")));
        world.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))), dirty);
    }
    let view = view(["localhost"].into_iter());

    let started = Instant::now();
    let plan = plan_with(&world, &web, &view, &|_| false);
    let took = started.elapsed();

    // Both ports of IPv4, cluster and local, and the empty set of IPv6 and of the wildcards.
    let mut sizes: Vec<usize> = plan.sets.iter().map(|set| set.endpoints.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 100, 100, 10_000, 10_000]);
    assert!(plan.draining.is_empty());
    assert!(plan.sets.iter().all(|set| set.endpoints.is_sorted()));
    // Without optimisation, and with whatever else this machine does; what was quadratic would take minutes.
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("planned in {took:?}");
}
