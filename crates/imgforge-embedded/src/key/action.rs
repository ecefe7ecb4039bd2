//! What an action says, written down. Each type is taken apart into all of its fields, so that one that is added later
//! cannot be forgotten here.

use imgforge_dockerfile::program::{
    Action, Copy, CopySource, From, Mount, MountKind, Run, RunNetwork, Sharing,
};

use super::encoding::Encoding;

pub(super) fn action(to: &mut Encoding, action: &Action) {
    match action {
        Action::Run(made) => {
            to.number(0_u8);
            run(to, made);
        }
        Action::Copy(made) => {
            to.number(1_u8);
            copy(to, made);
        }
        Action::Workdir { path, user } => {
            to.number(2_u8);
            to.text(path);
            to.text(user);
        }
    }
}

fn run(to: &mut Encoding, run: &Run) {
    let Run { argv, env, workdir, user, mounts, network, heredocs } = run;
    to.texts(argv);
    to.pairs(env);
    to.text(workdir);
    to.text(user);
    to.list(mounts, mount);
    to.option(*network, |to, network| {
        to.number(match network {
            RunNetwork::None => 0_u8,
            RunNetwork::Default => 1,
            RunNetwork::Host => 2,
        });
    });
    to.pairs(heredocs);
}

/// What is in a cache, a secret and an agent is no input: BuildKit leaves their content out too.
fn mount(to: &mut Encoding, mount: &Mount) {
    let Mount { target, kind } = mount;
    to.text(target);
    match kind {
        // What it comes from is among the inputs, by content.
        MountKind::Bind { from: _, source, writable } => {
            to.number(0_u8);
            to.text(source);
            to.flag(*writable);
        }
        MountKind::Cache { id, from: begun, source, sharing, mode, uid, gid, read_only } => {
            to.number(1_u8);
            to.text(id);
            to.option(begun.as_ref(), from);
            to.text(source);
            to.number(match sharing {
                Sharing::Shared => 0_u8,
                Sharing::Private => 1,
                Sharing::Locked => 2,
            });
            owned(to, [*mode, *uid, *gid]);
            to.flag(*read_only);
        }
        MountKind::Tmpfs { size } => {
            to.number(2_u8);
            to.option(*size, Encoding::number);
        }
        MountKind::Secret { id, env, required, mode, uid, gid } => {
            to.number(3_u8);
            to.text(id);
            to.option(env.as_deref(), Encoding::text);
            to.flag(*required);
            owned(to, [*mode, *uid, *gid]);
        }
        MountKind::Ssh { id, required, mode, uid, gid } => {
            to.number(4_u8);
            to.text(id);
            to.flag(*required);
            owned(to, [*mode, *uid, *gid]);
        }
    }
}

/// The mode, the owner and the group of a mount.
fn owned(to: &mut Encoding, numbers: [u32; 3]) {
    for number in numbers {
        to.number(number);
    }
}

fn from(to: &mut Encoding, from: &From) {
    match from {
        From::Context => to.number(0_u8),
        From::Stage(number) => {
            to.number(1_u8);
            to.number(*number as u64);
        }
        From::Image(name) => {
            to.number(2_u8);
            to.text(name);
        }
    }
}

fn copy(to: &mut Encoding, copy: &Copy) {
    // What it comes from is among the inputs, by content.
    let Copy { is_add, from: _, sources, target, chown, chmod, link, parents, excludes } = copy;
    to.flag(*is_add);
    to.list(sources, source);
    to.text(target);
    to.option(chown.as_deref(), Encoding::text);
    to.option(*chmod, Encoding::number);
    to.flag(*link);
    to.flag(*parents);
    to.texts(excludes);
}

fn source(to: &mut Encoding, source: &CopySource) {
    match source {
        CopySource::Path(path) => {
            to.number(0_u8);
            to.text(path);
        }
        CopySource::Inline { name, content } => {
            to.number(1_u8);
            to.text(name);
            to.text(content);
        }
        CopySource::Url { url, checksum } => {
            to.number(2_u8);
            to.text(url);
            to.option(checksum.as_deref(), Encoding::text);
        }
    }
}
