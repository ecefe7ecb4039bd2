//! Which image stands on which: a directed graph whose edges run from parent to child, without circles.
//!
//! A small one of our own: names outside, indices inside, and every question that is asked of it has a fixed order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::diagnostic::{Problem, Problems};
use crate::name::ImageName;
use crate::workspace::{Parent, Workspace};

/// The graph of a workspace's images.
#[derive(Debug, Clone)]
pub struct ImageGraph {
    names: Vec<ImageName>,
    index: BTreeMap<ImageName, usize>,
    parents: Vec<Vec<usize>>,
    children: Vec<Vec<usize>>,
    /// The parent whose file system an image begins with.
    base: Vec<Option<usize>>,
    order: Vec<usize>,
}

impl ImageGraph {
    /// Makes the graph.
    ///
    /// # Errors
    /// One problem for every group of images that stand on one another, with each hop's `file:line`.
    pub fn new(workspace: &Workspace) -> Result<Self, Problems> {
        let names: Vec<ImageName> = workspace.images.keys().cloned().collect();
        let index: BTreeMap<ImageName, usize> =
            names.iter().enumerate().map(|(n, name)| (name.clone(), n)).collect();
        let mut graph = Self {
            parents: vec![Vec::new(); names.len()],
            children: vec![Vec::new(); names.len()],
            base: vec![None; names.len()],
            order: Vec::new(),
            names,
            index,
        };
        for (child, image) in workspace.images.values().enumerate() {
            let parents: BTreeSet<usize> =
                image.parents.iter().map(|parent| graph.index[&parent.name]).collect();
            for &parent in &parents {
                graph.children[parent].push(child);
            }
            graph.parents[child] = parents.into_iter().collect();
            graph.base[child] = image.base.as_ref().map(|base| graph.index[base]);
        }
        graph.order = graph.kahn();
        if graph.order.len() < graph.names.len() { Err(graph.circles(workspace)) } else { Ok(graph) }
    }

    /// Kahn's algorithm, the smallest name first; short of the images that a circle keeps from being reached.
    fn kahn(&self) -> Vec<usize> {
        let mut waiting: Vec<usize> = self.parents.iter().map(Vec::len).collect();
        let mut ready: BTreeSet<usize> = (0..waiting.len()).filter(|n| waiting[*n] == 0).collect();
        let mut order = Vec::with_capacity(waiting.len());
        while let Some(n) = ready.pop_first() {
            order.push(n);
            for &child in &self.children[n] {
                waiting[child] -= 1;
                if waiting[child] == 0 {
                    ready.insert(child);
                }
            }
        }
        order
    }

    /// One problem for every knot: images that all stand on one another. A shortest circle of it is shown.
    fn circles(&self, workspace: &Workspace) -> Problems {
        let mut problems = Problems::default();
        for knot in self.knots() {
            problems.push(self.circle_problem(&self.shortest_circle(&knot), workspace));
        }
        problems
    }

    /// The strongly connected components of more than one image (Tarjan's algorithm, with a stack of its own: a
    /// family may be deeper than the thread's stack).
    fn knots(&self) -> Vec<BTreeSet<usize>> {
        const UNSEEN: usize = usize::MAX;
        let count = self.names.len();
        let (mut number, mut low, mut is_open) = (vec![UNSEEN; count], vec![0; count], vec![false; count]);
        let (mut next, mut open, mut knots) = (0, Vec::new(), Vec::new());
        for start in 0..count {
            // Each entry: an image, and how many of its parents have been looked at.
            let mut path = if number[start] == UNSEEN { vec![(start, 0)] } else { Vec::new() };
            while let Some((n, seen)) = path.last_mut() {
                let n = *n;
                if *seen == 0 {
                    (number[n], low[n], is_open[n]) = (next, next, true);
                    next += 1;
                    open.push(n);
                }
                if let Some(&parent) = self.parents[n].get(*seen) {
                    *seen += 1;
                    if number[parent] == UNSEEN {
                        path.push((parent, 0));
                    } else if is_open[parent] {
                        low[n] = low[n].min(number[parent]);
                    }
                    continue;
                }
                path.pop();
                if let Some((child, _)) = path.last() {
                    low[*child] = low[*child].min(low[n]);
                }
                if low[n] == number[n] {
                    let from = open.iter().rposition(|m| *m == n).expect("it was opened above");
                    let knot: BTreeSet<usize> = open.drain(from..).collect();
                    for m in &knot {
                        is_open[*m] = false;
                    }
                    knots.extend((knot.len() > 1).then_some(knot));
                }
            }
        }
        knots
    }

    /// A shortest circle of a knot. In a very large knot, only circles through its first images are looked for, since
    /// every start costs a walk through the whole of it.
    fn shortest_circle(&self, knot: &BTreeSet<usize>) -> Vec<usize> {
        const STARTS: usize = 256;
        let circles = knot.iter().take(STARTS).filter_map(|start| self.circle_through(*start, knot));
        circles.min_by_key(Vec::len).expect("every image of a knot lies on a circle")
    }

    /// From `start` along parents back to `start`, breadth first.
    fn circle_through(&self, start: usize, within: &BTreeSet<usize>) -> Option<Vec<usize>> {
        let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(n) = queue.pop_front() {
            for &parent in self.parents[n].iter().filter(|parent| within.contains(parent)) {
                if parent == start {
                    let mut circle = vec![n];
                    let mut at = n;
                    while at != start {
                        at = came_from[&at];
                        circle.push(at);
                    }
                    circle.reverse();
                    return Some(circle);
                }
                if let std::collections::btree_map::Entry::Vacant(entry) = came_from.entry(parent) {
                    entry.insert(n);
                    queue.push_back(parent);
                }
            }
        }
        None
    }

    fn circle_problem(&self, circle: &[usize], workspace: &Workspace) -> Problem {
        let hop = |at: usize| -> &Parent {
            let (child, parent) = (circle[at], circle[(at + 1) % circle.len()]);
            let image = &workspace.images[&self.names[child]];
            let found = image.parents.iter().find(|edge| edge.name == self.names[parent]);
            found.expect("edges of the graph come from parents")
        };
        let place = |at: usize| format!("{} ({})", self.names[circle[at]], hop(at).file.at(hop(at).span));
        let hops: Vec<String> = (0..circle.len()).map(place).collect();
        let first = hop(0);
        let message =
            format!("images stand on one another: {} -> {}", hops.join(" -> "), self.names[circle[0]]);
        let problem = Problem::at(&first.file, first.span, message, "the circle closes here");
        problem.help("take one of these edges away; what two images share can be a parent of both")
    }

    /// All images, parents first; among those that could come next, by name.
    pub fn topological(&self) -> impl Iterator<Item = &ImageName> {
        self.order.iter().map(|n| &self.names[*n])
    }

    /// The images that `name` stands on directly, by name.
    pub fn parents(&self, name: &ImageName) -> impl Iterator<Item = &ImageName> {
        self.of(name).into_iter().flat_map(|n| &self.parents[n]).map(|n| &self.names[*n])
    }

    /// The images that stand directly on `name`, by name.
    pub fn children(&self, name: &ImageName) -> impl Iterator<Item = &ImageName> {
        self.of(name).into_iter().flat_map(|n| &self.children[n]).map(|n| &self.names[*n])
    }

    /// Everything that `name` stands on, itself not included.
    pub fn ancestors(&self, name: &ImageName) -> BTreeSet<&ImageName> {
        self.reach(name, usize::MAX, &self.parents)
    }

    /// Everything that stands on `name`, itself not included.
    pub fn descendants(&self, name: &ImageName) -> BTreeSet<&ImageName> {
        self.reach(name, usize::MAX, &self.children)
    }

    /// What stands on `name` in at most `depth` steps.
    pub fn descendants_within(&self, name: &ImageName, depth: usize) -> BTreeSet<&ImageName> {
        self.reach(name, depth, &self.children)
    }

    /// `name` and the images below it along `from`, the one that stands on no other first: whose services, users and
    /// packages the image has.
    pub fn chain(&self, name: &ImageName) -> Vec<&ImageName> {
        let mut chain = Vec::new();
        let mut next = self.of(name);
        while let Some(n) = next {
            chain.push(&self.names[n]);
            next = self.base[n];
        }
        chain.reverse();
        chain
    }

    fn of(&self, name: &ImageName) -> Option<usize> {
        self.index.get(name).copied()
    }

    fn reach(&self, name: &ImageName, depth: usize, edges: &[Vec<usize>]) -> BTreeSet<&ImageName> {
        let mut found: BTreeSet<usize> = BTreeSet::new();
        let mut level: Vec<usize> = self.of(name).into_iter().collect();
        for _ in 0..depth {
            level = level.iter().flat_map(|n| &edges[*n]).copied().filter(|n| found.insert(*n)).collect();
            if level.is_empty() {
                break;
            }
        }
        found.into_iter().map(|n| &self.names[n]).collect()
    }
}

#[cfg(test)]
mod tests;
