//! Downloads that go wrong.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_download_that_was_cut_off_goes_on_where_it_was_and_is_not_taken_for_whole() {
    let place = Place::new(model());
    place.cut(100_000);
    let error = place.open(NAME).unwrap_err();
    assert!(error.starts_with("test/tiny: model.safetensors: "), "{error}");
    assert!(error.contains("start again to go on"), "{error}");
    assert!(!place.shelf().join("snapshots").join(FIRST).join(WEIGHTS).exists());
    assert!(!place.shelf().join("refs/main").exists());
    assert!(place.open_offline(NAME).is_err());
    assert_eq!(fs::read(place.part(&model()[WEIGHTS])).unwrap(), model()[WEIGHTS][..100_000]);
    place.fake.taken();
    place.fake.set(|state| state.cut.clear());
    let folder = place.open(NAME).unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), model()[WEIGHTS]);
    let ranges: Vec<String> = place.fake.taken().into_iter().filter_map(|seen| seen.range).collect();
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");
}

#[test]
fn a_connection_that_breaks_is_taken_up_again_at_once() {
    let place = Place::new(model());
    place.cut(100_000);
    let state = std::sync::Arc::clone(&place.fake.state);
    // The connection after the first that was cut is whole.
    std::thread::spawn(move || {
        loop {
            let mut state = state.lock().unwrap();
            let begun =
                |seen: &fake::Seen| seen.path.contains("large") && seen.range.as_deref() == Some("bytes=0-");
            if state.seen.iter().any(begun) {
                state.cut.clear();
                return;
            }
            drop(state);
            std::thread::yield_now();
        }
    });
    let folder = place.open(NAME).unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), model()[WEIGHTS]);
    let ranges: Vec<String> = place.fake.taken().into_iter().filter_map(|seen| seen.range).collect();
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");
}

#[test]
fn a_part_that_is_whole_or_too_long_ends_as_the_right_file() {
    let weights = model()[WEIGHTS].clone();
    for extra in [0, 7] {
        let place = Place::new(model());
        fs::create_dir_all(place.shelf().join("blobs")).unwrap();
        fs::write(place.part(&weights), vec![1; weights.len() + extra]).unwrap();
        let folder = place.open(NAME).unwrap();
        assert!(fs::read(folder.join(WEIGHTS)).unwrap() == weights, "{extra}");
    }
}

#[test]
fn a_hub_that_sends_all_where_the_rest_was_asked_for_gives_the_right_file() {
    let weights = model()[WEIGHTS].clone();
    let place = Place::new(model());
    place.fake.set(|state| state.whole_only = true);
    fs::create_dir_all(place.shelf().join("blobs")).unwrap();
    fs::write(place.part(&weights), &weights[..1000]).unwrap();
    let folder = place.open(NAME).unwrap();
    assert!(fs::read(folder.join(WEIGHTS)).unwrap() == weights);
}

#[test]
fn what_another_program_downloads_is_waited_for_and_not_downloaded_again() {
    let weights = model()[WEIGHTS].clone();
    let place = Place::new(model());
    let blobs = place.shelf().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let blob = blobs.join(etag(&weights));
    let lock = fs::File::create(blob.with_extension("lock")).unwrap();
    lock.try_lock().unwrap();
    let (state, pointer) =
        (std::sync::Arc::clone(&place.fake.state), place.shelf().join("snapshots").join(FIRST));
    // The other program is done some time after this one has asked how large the file is.
    let other = std::thread::spawn(move || {
        while !state.lock().unwrap().seen.iter().any(|seen| seen.path.contains("large")) {
            std::thread::yield_now();
        }
        fs::write(&blob, model()[WEIGHTS].clone()).unwrap();
        symlink(&blob, pointer.join(WEIGHTS)).unwrap();
        drop(lock);
    });
    let folder = place.open(NAME).unwrap();
    other.join().unwrap();
    assert!(fs::read(folder.join(WEIGHTS)).unwrap() == weights);
    let large = place.fake.taken().into_iter().filter(|seen| seen.path.contains("large"));
    assert_eq!(large.map(|seen| seen.range.unwrap()).collect::<Vec<_>>(), ["bytes=0-0"]);
}

#[test]
fn a_hub_that_falls_silent_is_given_up() {
    let mut place = Place::new(model());
    place.hub.patience = Duration::from_millis(300);
    place.stall(1000);
    let error = place.open(NAME).unwrap_err();
    assert!(error.contains("nothing came from the hub for 0.3 s"), "{error}");
}

#[test]
fn each_refusal_is_one_line_that_names_the_model_and_what_helps() {
    for (status, help) in
        [(401, "HF_TOKEN"), (403, "accept the model's terms"), (404, "no such model"), (400, "400")]
    {
        let place = Place::new(model());
        place.fake.set(|state| state.status = Some(status));
        let error = place.open(NAME).unwrap_err();
        assert!(error.starts_with("test/tiny: the list of its files: "), "{error}");
        assert!(error.contains(help) && !error.contains('\n'), "{error}");
        assert_eq!(place.fake.taken().len(), 1, "{status} does not change by itself");
    }
}

#[test]
fn a_revision_that_is_not_there_is_named() {
    let place = Place::new(model());
    let error = place.open("test/tiny@v9").unwrap_err();
    assert!(
        error.starts_with("test/tiny@v9: ") && error.contains("no such model, revision or file"),
        "{error}"
    );
}

#[test]
fn files_that_are_not_there_are_named() {
    let without = |names: &[&str]| {
        let mut files = sharded();
        files.retain(|name, _| !names.contains(&name.as_str()));
        Place::new(files)
    };
    let said = |place: &Place| place.open(NAME).unwrap_err();
    assert_eq!(
        said(&without(&["config.json"])),
        "test/tiny: has no config.json: this is no model that can be served"
    );
    assert_eq!(
        said(&without(&["model.safetensors.index.json"])),
        "test/tiny: has neither model.safetensors nor model.safetensors.index.json: other weights are not downloaded"
    );
    assert_eq!(
        said(&without(&["b.safetensors"])),
        "test/tiny: model.safetensors.index.json names b.safetensors, which the hub does not have"
    );
    let place = without(&["b.safetensors"]);
    place.fake.set(|state| state.promised.push("b.safetensors".to_owned()));
    let error = said(&place);
    assert!(error.starts_with("test/tiny: b.safetensors: the hub says 404"), "{error}");
}

#[test]
fn an_index_that_names_a_file_elsewhere_is_refused() {
    let mut files = sharded();
    let index = json!({"weight_map": {"x": "../../../../escaped.safetensors"}}).to_string();
    files.insert("model.safetensors.index.json".to_owned(), index.into());
    let error = Place::new(files).open(NAME).unwrap_err();
    assert!(error.contains("is not a file of this folder"), "{error}");
}

#[test]
fn a_full_disk_is_named_with_its_place() {
    let place = Place::new(model());
    fs::create_dir_all(place.shelf().join("blobs")).unwrap();
    symlink("/dev/full", place.part(&model()[WEIGHTS])).unwrap();
    let error = place.open(NAME).unwrap_err();
    let expected = format!(
        "test/tiny: model.safetensors cannot be written at {}/hub (HF_HOME): ",
        place.home.path().display()
    );
    assert!(error.starts_with(&expected) && error.contains("No space left"), "{error}");
}

#[test]
fn a_home_that_is_no_folder_is_named() {
    let mut place = Place::new(model());
    let file = place.home.path().join("file");
    fs::write(&file, "").unwrap();
    place.hub.home = Some(file.clone());
    let error = place.open(NAME).unwrap_err();
    assert!(error.contains("HF_HOME") && error.contains(file.to_str().unwrap()), "{error}");
    place.hub.home = None;
    let error = place.open(NAME).unwrap_err();
    assert!(error.starts_with("test/tiny: HF_HOME must name the folder"), "{error}");
}

#[test]
fn what_is_no_hub_is_said_to_be_none() {
    let mut place = Place::new(model());
    place.hub.endpoint = "nonsense".to_owned();
    let error = place.open(NAME).unwrap_err();
    assert!(error.starts_with("test/tiny: the list of its files: "), "{error}");
    assert!(error.contains("HF_ENDPOINT") && !error.contains('\n'), "{error}");
}
