use super::*;

#[test]
fn paths_of_the_daemon_become_paths_of_the_image() {
    let told = "lstat /var/lib/docker/overlay2/0a1b/merged/no/such: no such file or directory";
    assert_eq!(in_the_image(told), "lstat /no/such: no such file or directory");
    assert_eq!(in_the_image("a/merged/b is kept"), "a/merged/b is kept");
}

#[test]
fn only_runc_speaks_of_a_program_that_is_missing() {
    let told = "runc run failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory";
    assert_eq!(missing_program(&[told.into()]), Some("/bin/sh"));
    assert_eq!(missing_program(&["exec: \"x\": no such file or directory".into()]), None);
    assert_eq!(missing_program(&[told.replace("no such file or directory", "permission denied")]), None);
}
