//! (Until containers are there.)

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use camino::Utf8Path;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use imgforge_engine::containers::*;
use imgforge_engine::{Containers, Error};

use crate::engine::Embedded;

fn missing() -> Error {
    Error::Embedded { message: "containers are not there yet".into() }
}

impl Containers for Embedded {
    fn start(&self, _request: RunRequest) -> BoxFuture<'_, Result<Started, Error>> {
        async { Err(missing()) }.boxed()
    }

    fn create(&self, _request: RunRequest) -> BoxFuture<'_, Result<String, Error>> {
        async { Err(missing()) }.boxed()
    }

    fn connect<'a>(
        &'a self,
        _container: &'a Started,
        _port: u16,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }

    fn state<'a>(&'a self, _container: &'a str) -> BoxFuture<'a, Result<ContainerState, Error>> {
        async { Err(missing()) }.boxed()
    }

    fn entry<'a>(
        &'a self,
        _container: &'a str,
        _path: &'a Utf8Path,
    ) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
        async { Err(missing()) }.boxed()
    }

    fn walk<'a>(&'a self, _container: &'a str) -> BoxFuture<'a, Result<Vec<(String, Entry)>, Error>> {
        async { Err(missing()) }.boxed()
    }

    fn labelled<'a>(&'a self, _label: &'a str) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn follow<'a>(&'a self, _container: &'a str, _sink: OutputSink) -> BoxFuture<'a, Result<i64, Error>> {
        async { Err(missing()) }.boxed()
    }

    fn stop<'a>(&'a self, _container: &'a str, _grace: Duration) -> BoxFuture<'a, Result<(), Error>> {
        async { Err(missing()) }.boxed()
    }

    fn remove<'a>(&'a self, _container: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async { Err(missing()) }.boxed()
    }

    fn running<'a>(&'a self, _image: Option<&'a str>) -> BoxFuture<'a, Result<Vec<RunningContainer>, Error>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn images_in_use(&self) -> BoxFuture<'_, Result<BTreeSet<String>, Error>> {
        async { Ok(BTreeSet::new()) }.boxed()
    }

    fn find<'a>(&'a self, _container: &'a str) -> BoxFuture<'a, Result<Option<RunningContainer>, Error>> {
        async { Err(missing()) }.boxed()
    }

    fn exec_as<'a>(
        &'a self,
        _container: &'a str,
        _argv: &'a [&'a str],
        _user: Option<&'a str>,
    ) -> BoxFuture<'a, Result<ExecOutput, Error>> {
        async { Err(missing()) }.boxed()
    }
}
