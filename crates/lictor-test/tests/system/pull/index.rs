//! Images that are called by an index of several, one for each kind of machine; and indexes that lie.

use super::*;
use crate::registry::{OURS, entry};

fn image() -> Result<Image> {
    let place = tempfile::tempdir()?;
    Ok(Image::of_layer(layer(place.path())?))
}

fn pulled_of(image: &Image, mood: Mood) -> Result<Pulled> {
    pulled(&Registry::start(image.clone(), mood)?, &image.digest)
}

#[test]
fn a_profile_may_name_an_index_and_what_ran_is_told_by_its_manifest() -> Result<()> {
    let image = image()?;
    let manifest = image.manifest();
    let other = entry(&Digest::of(b"other"), 7, "s390x");
    let entries = [other, image.entry(OURS)];
    let image = image.in_index(&entries);
    let registry = Registry::start(image.clone(), Mood::Honest)?;
    let split = split(&registry)?;
    let cli = split.cli();
    let index = image.digest;
    add_profile(cli, &profile("fetched", &registry, &index, "pull = \"missing\""))?;
    let done = run(cli, "fetched", "cat /etc/where")?;
    has_run(&done, "inside")?;
    let id = done.result()?["job_id"].as_str().context("an id")?.to_owned();
    let receipt = receipt(cli, &id)?;
    ensure!(
        receipt["backend"]["rootfs"] == manifest.to_string(),
        "the receipt says which image it was: {receipt}"
    );
    let shown = cli.ok(&["job", &id])?;
    ensure!(shown.contains(&format!("image      {manifest}")), "{shown}");
    let agent = cli.home().join("agent");
    let agent = agent.to_str().context("a path")?;
    let listed = cli.ok(&["agent", "rootfs", "--dir", agent, "ls"])?;
    ensure!(listed.contains(&index.to_string()), "{listed}");
    let asked = registry.asked().len();
    has_run(&run(cli, "fetched", "cat /etc/where")?, "inside")?;
    ensure!(registry.asked().len() == asked, "it is fetched once");
    Ok(())
}

#[test]
fn an_index_is_pulled_by_hand_and_the_image_is_called_by_it() -> Result<()> {
    let image = image()?;
    let manifest = image.manifest();
    let entries = [image.entry(OURS)];
    let image = image.in_index(&entries);
    let told = pulled_of(&image, Mood::Honest)?;
    ensure!(told.code == 0, "{told:?}");
    for word in [
        format!("rootfs = \"{}\"", image.digest),
        format!("the image is {manifest}"),
    ] {
        ensure!(told.text.contains(&word), "{told:?}");
    }
    ensure!(
        told.left == [image.digest.to_string().replace(':', "-")],
        "{told:?}"
    );
    Ok(())
}

#[test]
fn an_index_that_lies_or_leaves_open_which_image_leaves_nothing() -> Result<()> {
    let plain = image()?;
    let ours = plain.entry(OURS);
    let another = entry(&Digest::of(b"another"), 7, OURS);
    let nested = another.replace("image.manifest.v1", "image.index.v1");
    let nobody = another
        .split(",\"platform\"")
        .next()
        .unwrap_or_default()
        .to_owned()
        + "}";
    let long = " ".repeat(5 << 20) + &ours;
    let longer = plain.entry(OURS).replace("\"size\":", "\"size\":1");
    for (entries, mood, says) in [
        (vec![ours.clone()], Mood::OtherIndex, "igest"),
        (vec![ours.clone()], Mood::OtherManifest, "igest"),
        (vec![another.clone()], Mood::Honest, "igest"),
        (vec![longer], Mood::Honest, "the length of"),
        (vec![plain.entry("s390x")], Mood::Honest, "(linux/s390x)"),
        (vec![nobody], Mood::Honest, "for who knows what"),
        (vec![ours.clone(), another], Mood::Honest, "several images"),
        (vec![ours, nested], Mood::Honest, "index of other indexes"),
        (vec![long], Mood::Honest, ""),
    ] {
        let image = plain.clone().in_index(&entries);
        let told = pulled_of(&image, mood)?;
        ensure!(
            told.code == 125 && told.text.contains("rootfs_") && told.text.contains(says),
            "{mood:?}, {says:?}: {told:?}"
        );
        ensure!(told.left.is_empty(), "{mood:?}, {says:?}: {told:?}");
    }
    Ok(())
}
