//! What is on the pictures. How they look is for eyes.

use super::{super::fixture, *};

/// The texts of a document, in order; fails where tags do not match.
fn texts(document: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut open = Vec::new();
    for piece in document.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag ends");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "tags match");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().expect("a tag has a name"));
        }
        if open.last() == Some(&"text") {
            texts.push(text.trim().replace("&gt;", ">"));
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    texts
}

#[test]
fn every_arm_with_samples_has_its_panel_and_every_server_its_line() {
    let outcome = fixture::scale_up();
    assert_eq!(kind(&outcome), Some(Kind::OverTime));
    let document = draw(&outcome).unwrap().unwrap();
    let texts = texts(&document);
    assert!(texts.contains(&"scale-up: 3 -> 6 servers under 60 held connections".to_owned()));
    for arm in ["direct", "nftables", "balancer", "balancer, rebalancing"] {
        assert_eq!(texts.iter().filter(|text| *text == arm).count(), 1, "{arm}");
    }
    assert!(!texts.contains(&"iptables".to_owned()), "it has no samples");
    for server in 1..=6 {
        assert!(texts.contains(&format!("server {server}")));
    }
    // Four panels with a line for each server and the even share.
    let long = document.lines().filter(|line| line.starts_with("<polyline") && line.len() > 500).count();
    assert_eq!(long, 4 * 7);
    assert!(!document.contains("NaN") && !document.contains("inf"));
}

#[test]
fn a_simulation_has_a_panel_for_each_number_of_connections() {
    let outcome = simulation::by_size(5, simulation::Names::Random, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(kind(&outcome), Some(Kind::ByNodes));
    let document = draw(&outcome).unwrap().unwrap();
    let texts = texts(&document);
    for k in simulation::CONNECTIONS {
        let plural = if k == 1 { "" } else { "s" };
        assert!(texts.contains(&format!("{k} connection{plural} per node")));
    }
    for nodes in simulation::NODES {
        let times = texts.iter().filter(|text| **text == nodes.to_string()).count();
        assert!(times >= 5, "{nodes} stands below {times} panels");
    }
    assert!(!document.contains("NaN") && !document.contains("inf"));
}

#[test]
fn nothing_to_draw_is_no_picture() {
    assert_eq!(draw(&fixture::five_on_two()).unwrap(), None);
    let names: Vec<String> = fixture::report().plots().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["scale-up.svg"]);
}

#[test]
fn marks_are_round_and_within() {
    assert_eq!(ticks(0.0, 120.0, 5, 0.001), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0]);
    assert_eq!(ticks(0.0, 2.0, 4, 1.0), [0.0, 1.0, 2.0]);
    assert_eq!(ticks(1.0, 5.3, 4, 0.001), [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(ticks(0.0, 21.6, 4, 1.0), [0.0, 5.0, 10.0, 15.0, 20.0]);
}
