//! The page is whole, holds nothing foreign, and what comes from elsewhere is text in it.

use super::*;
use crate::run::tests::sample;

fn ours(_: &str) -> Vec<&'static str> {
    vec!["tc"]
}

#[test]
fn the_page_holds_every_measurement_and_what_is_missing() {
    let run = sample(0.97, 0.01);
    let page = page(&run, &plots(&run, &ours));
    for expected in
        ["services-crr", "family IPv4, services 10000", "direct = 100 per second", "0.970", "not installed", "Quiet"]
    {
        assert!(page.contains(expected), "{expected} is not in {page}");
    }
    assert!(page.contains("2 x A &lt;fast&gt; CPU") && !page.contains("A <fast>"), "text that is markup");
}

#[test]
fn nothing_is_loaded_and_nothing_runs() {
    let run = sample(0.97, 0.01);
    let page = page(&run, &plots(&run, &ours)).replace("http://www.w3.org/2000/svg", "");
    for foreign in ["http://", "https://", "<script", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn ours_are_set_off_and_elements_are_closed() {
    let run = sample(0.97, 0.3);
    let Plot { name, svg } = plots(&run, &ours).remove(0);
    assert_eq!(name, "01-services-crr");
    assert!(svg.contains("class=\"ours\"") && !svg.contains("class=\"other\""), "{svg}");
    assert!(svg.contains(">tc / direct<"), "a ratio that does not say to what: {svg}");
    for element in ["svg", "g", "text", "style", "title"] {
        let (open, close) = (format!("<{element}"), format!("</{element}>"));
        let opened = svg.matches(&format!("{open} ")).count() + svg.matches(&format!("{open}>")).count();
        assert_eq!(opened, svg.matches(&close).count(), "{element}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn figures_that_are_compared_with_nothing_are_shown_as_they_are() {
    let mut run = sample(0.97, 0.01);
    run.measurements[0].noise = None;
    run.measurements[0].sides.iter_mut().for_each(|side| side.ratio = None);
    let Plot { svg, .. } = plots(&run, &ours).remove(0);
    assert!(svg.contains(">direct<") && svg.contains(">tc<") && !svg.contains("class=\"one\""), "{svg}");
}

#[test]
fn files_are_written_beside_the_page() {
    let folder = tempfile::tempdir().expect("folder");
    let html = folder.path().join("report.html");
    let written = write(&sample(0.97, 0.01), &ours, &html).expect("write");
    let beside = folder.path().join("report.d");
    assert_eq!(written, [html, beside.join("01-services-crr.svg"), beside.join("run.json")]);
    assert!(written.iter().all(|path| path.is_file()));
}
