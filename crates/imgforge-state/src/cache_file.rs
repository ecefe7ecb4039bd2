//! Files that are replaced as a whole.

use std::fs;
use std::io::{self, Write};

use camino::Utf8Path;

/// Writes a new file beside `path` and renames it over: a reader sees the old one or the new one, whole.
pub fn replace(path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let new = folder.join(format!(".{}.{}", path.file_name().unwrap_or("cache"), std::process::id()));
    // What has this name is of a process that is gone, or a link that somebody has put there.
    let _ = fs::remove_file(&new);
    let written = fs::File::create_new(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;

    use super::*;

    #[test]
    fn a_link_under_the_name_of_the_new_file_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let (file, victim) = (folder.join("file"), folder.join("victim"));
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, folder.join(format!(".file.{}", std::process::id()))).unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    }
}
