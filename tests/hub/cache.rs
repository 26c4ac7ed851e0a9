//! Without a hub: what is there already.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn what_was_downloaded_is_served_without_a_network() {
    let place = Place::new(sharded());
    let folder = place.open(NAME).unwrap();
    place.fake.taken();
    assert_eq!(place.open_offline(NAME).unwrap(), folder);
    assert_eq!(place.open_offline(&format!("{NAME}@{FIRST}")).unwrap(), folder);
    assert!(place.fake.taken().is_empty());
}

#[test]
fn what_is_missing_without_a_network_is_named_with_what_to_do() {
    let place = Place::new(sharded());
    let error = place.open_offline(NAME).unwrap_err();
    assert!(error.starts_with("test/tiny: config.json is not in "), "{error}");
    assert!(error.contains("HF_HUB_OFFLINE") && error.contains("start once without"), "{error}");
    let folder = place.open(NAME).unwrap();
    fs::remove_file(folder.join("b.safetensors")).unwrap();
    let error = place.open_offline(NAME).unwrap_err();
    assert!(error.starts_with("test/tiny: b.safetensors is not in "), "{error}");
}

#[test]
fn a_hub_that_cannot_be_reached_does_not_keep_a_whole_model_from_being_served() {
    let mut place = Place::new(model());
    let folder = place.open(NAME).unwrap();
    // Nothing listens there.
    place.hub.endpoint = "http://127.0.0.1:9".to_owned();
    assert_eq!(place.open(NAME).unwrap(), folder);
    place.hub.endpoint.clone_from(&place.fake.address);
    place.fake.set(|state| state.status = Some(503));
    assert_eq!(place.open(NAME).unwrap(), folder);
    let error = place.open("test/other").unwrap_err();
    assert!(error.starts_with("test/other: the list of its files: the hub says 503"), "{error}");
}

#[test]
fn what_python_downloaded_is_served() {
    let place = Place::new(model());
    let (blobs, snapshot) = (place.shelf().join("blobs"), place.shelf().join("snapshots").join(SECOND));
    for folder in [&blobs, &snapshot, &place.shelf().join("refs")] {
        fs::create_dir_all(folder).unwrap();
    }
    for (number, (name, content)) in model().into_iter().enumerate() {
        fs::write(blobs.join(number.to_string()), content).unwrap();
        symlink(format!("../../blobs/{number}"), snapshot.join(name)).unwrap();
    }
    fs::write(place.shelf().join("refs/main"), SECOND).unwrap();
    assert_eq!(place.open_offline(NAME).unwrap(), snapshot);
    // A commit stands for itself.
    fs::remove_file(place.shelf().join("refs/main")).unwrap();
    assert_eq!(place.open_offline(&format!("{NAME}@{SECOND}")).unwrap(), snapshot);
}

#[test]
fn a_link_that_leads_nowhere_is_a_file_to_download() {
    let place = Place::new(model());
    let folder = place.open(NAME).unwrap();
    fs::remove_file(fs::canonicalize(folder.join(WEIGHTS)).unwrap()).unwrap();
    assert!(place.open_offline(NAME).unwrap_err().contains(WEIGHTS));
    assert_eq!(place.open(NAME).unwrap(), folder);
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), model()[WEIGHTS]);
}
