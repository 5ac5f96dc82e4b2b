//! Programs of others on the hooks that translate: who they are, and whether they translate too.
//!
//! A program that only counts or filters is no trouble. Another socket load balancer is: of two that know the
//! same Service address the first to run rewrites it, and the second meets a pod's address that tells it
//! nothing. Who balances then depends on the order in which they were attached, and is counted by one alone.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd,
    path::Path,
};

use super::{
    DatapathError, Pins,
    assembler::{
        EQUAL, EXIT, Instruction,
        Load::{Width32, Width64},
        SEQ_WRITE, add, call, copy, jump, load, set, store,
    },
    cgroup::Cgroup,
    install::{TRANSLATING, own_programs},
    iterator, sys, vmlinux,
};

/// A program of somebody else that runs where ours translate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Our program for the same hook, such as `connect4`.
    pub hook: &'static str,
    /// The kernel's number for it.
    pub id: u32,
    /// Its name, of which the kernel keeps 15 characters; `None` where this process may not know it.
    pub name: Option<String>,
}

impl Neighbour {
    /// Whose socket load balancer it belongs to, as far as its name tells.
    pub fn product(&self) -> Option<Product> {
        let name = self.name.as_deref()?;
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        // `bpf/bpf_sock.c` of Cilium since 1.12; `bpf-gpl/connect_balancer*.c` of Calico, and its older name.
        if begins(&["cil_sock4_", "cil_sock6_"]) {
            Some(Product::Cilium)
        } else if begins(&["calico_connect", "calico_sendmsg", "cali_ctlb"]) {
            Some(Product::Calico)
        } else {
            None
        }
    }

    /// As a person would refer to it.
    pub fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("program {name} (id {}, beside {})", self.id, self.hook),
            None => format!("program with id {} (beside {})", self.id, self.hook),
        }
    }
}

/// Another socket load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Cilium's socket LB.
    Cilium,
    /// Calico's connect-time load balancing.
    Calico,
}

impl Product {
    /// What its documentation calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cilium => "Cilium's socket load balancing",
            Self::Calico => "Calico's connect-time load balancing",
        }
    }

    /// How it is made to leave Services to others.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Cilium => {
                "switch it off for pods (Helm value socketLB.hostNamespaceOnly=true, that is \
                 bpf-lb-sock-hostns-only) or altogether (socketLB.enabled=false, that is bpf-lb-sock, where \
                 kube-proxy runs)"
            }
            Self::Calico => {
                "switch it off (FelixConfiguration: bpfConnectTimeLoadBalancing: Disabled, with \
                 bpfHostNetworkedNATWithoutCTLB: Enabled)"
            }
        }
    }
}

/// The programs of others that run for processes of `cgroup` where ours translate: those that are attached to
/// it and to the cgroups above it.
///
/// Those of cgroups below run before any of them, and are not looked for. Names are asked for of those alone
/// that are not among the `known`.
///
/// # Errors
/// Where the kernel does not say what is attached.
pub fn neighbours(pins: &Pins, cgroup: &Path, known: &[Neighbour]) -> Result<Vec<Neighbour>, DatapathError> {
    let directory = File::open(cgroup).map_err(DatapathError::io("cannot open cgroup", cgroup))?;
    let ours = own_programs(pins);
    let mut found = Vec::new();
    for hook in &TRANSLATING {
        let programs = sys::effective_programs(directory.as_fd(), hook.attach_type)
            .map_err(DatapathError::io("cannot ask what is attached to", cgroup))?;
        let others = programs.into_iter().filter(|id| !ours.contains(id));
        found.extend(others.map(|id| Neighbour { hook: hook.name, id, name: None }));
    }
    let mut unknown: Vec<&mut Neighbour> = Vec::new();
    for neighbour in &mut found {
        match known.iter().find(|known| known.id == neighbour.id) {
            Some(known) => neighbour.name.clone_from(&known.name),
            None => unknown.push(neighbour),
        }
    }
    name(unknown);
    Ok(found)
}

/// Whether `neighbours` has another socket load balancer, as the reason not to start.
///
/// # Errors
/// [`DatapathError::SocketLoadBalancer`] if so.
pub fn refuse_socket_load_balancer(neighbours: &[Neighbour], cgroup: &Cgroup) -> Result<(), DatapathError> {
    match neighbours.iter().find_map(|it| Some((it, it.product()?))) {
        None => Ok(()),
        Some((neighbour, product)) => Err(DatapathError::SocketLoadBalancer {
            product,
            program: neighbour.describe(),
            cgroup: cgroup.path.clone(),
        }),
    }
}

/// Finds out the names, one by one where this process may (that takes CAP_SYS_ADMIN), else all at once from a
/// list of all programs (CAP_BPF, CAP_PERFMON and the kernel's type information).
fn name(neighbours: Vec<&mut Neighbour>) {
    let mut listed: Option<BTreeMap<u32, String>> = None;
    for neighbour in neighbours {
        neighbour.name = sys::program_name(neighbour.id).ok().or_else(|| {
            let listed = listed.get_or_insert_with(|| {
                list().unwrap_or_else(|problem| {
                    log::debug!("the names of programs cannot be listed: {problem}");
                    BTreeMap::new()
                })
            });
            listed.get(&neighbour.id).cloned()
        });
    }
}

/// Id and name as the program below writes them.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Record {
    id: u64,
    name: [u8; 16],
}

/// The names of all programs by their ids.
fn list() -> Result<BTreeMap<u32, String>, String> {
    let target = vmlinux::function_id("bpf_iter_bpf_prog")?;
    let offsets = vmlinux::offsets([("bpf_prog", "aux"), ("bpf_prog_aux", "id"), ("bpf_prog_aux", "name")])?;
    let run = || -> io::Result<Vec<u8>> {
        let program = iterator::load(&listing(offsets), c"Dual MIT/GPL", target)?;
        let link = iterator::link_to_all(program.as_fd())?;
        let mut bytes = Vec::new();
        File::from(iterator::start(link.as_fd())?).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = run().map_err(|error| error.to_string())?;
    let records = bytes.as_chunks::<{ size_of::<Record>() }>().0.iter();
    let records = records.map(|bytes| bytemuck::pod_read_unaligned::<Record>(bytes));
    Ok(records.map(|record| (record.id as u32, sys::name_text(&record.name))).collect())
}

/// The iterator program, in C:
///
/// ```c
/// int list(struct bpf_iter__bpf_prog *ctx) {
///     if (!ctx->prog) return 0;   // the end of the walk
///     struct { u64 id; char name[16]; } record = { ctx->prog->aux->id, ctx->prog->aux->name };
///     bpf_seq_write(ctx->meta->seq, &record, sizeof record);
///     return 0;
/// }
/// ```
fn listing([aux, id, name]: [u32; 3]) -> Vec<Instruction> {
    const RECORD: i16 = -(size_of::<Record>() as i16);
    let (aux, id, name) = (aux as i16, id as i16, name as i16);
    vec![
        load(Width64, 6, 1, 0), // meta
        load(Width64, 7, 1, 8), // prog
        jump(EQUAL, 7, 0, 13),
        load(Width64, 7, 7, aux),
        load(Width32, 1, 7, id),
        store(10, RECORD, 1),
        load(Width64, 1, 7, name),
        store(10, RECORD + 8, 1),
        load(Width64, 1, 7, name + 8),
        store(10, RECORD + 16, 1),
        load(Width64, 1, 6, 0), // seq is the first field of struct bpf_iter_meta
        copy(2, 10),
        add(2, RECORD as i32),
        set(3, size_of::<Record>() as i32),
        call(SEQ_WRITE),
        set(0, 0),
        set(0, 0),
        EXIT,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_load_balancers_are_known_by_what_the_kernel_keeps_of_their_names() {
        let product = |name: &str| {
            let name = Some(name.chars().take(15).collect());
            Neighbour { hook: "connect4", id: 1, name }.product()
        };
        for name in ["cil_sock4_connect", "cil_sock6_connect", "cil_sock4_sendmsg", "cil_sock6_sendmsg"] {
            assert_eq!(product(name), Some(Product::Cilium), "{name}");
        }
        for name in ["calico_connect_v4", "calico_connect_v46", "calico_sendmsg_v6", "cali_ctlb_v4"] {
            assert_eq!(product(name), Some(Product::Calico), "{name}");
        }
        for name in ["connect4", "sd_restrictif_i", "foreign", "", "cil_from_contain"] {
            assert_eq!(product(name), None, "{name}");
        }
        assert_eq!(Neighbour { hook: "connect4", id: 1, name: None }.product(), None);
    }

    #[test]
    fn the_end_of_the_walk_is_skipped_to() {
        let code = listing([0, 4, 8]);
        let (at, skip) = code.iter().enumerate().find(|(_, it)| it.code == EQUAL).unwrap();
        assert_eq!(code[at + 1 + skip.offset as usize..], [set(0, 0), EXIT]);
    }
}
