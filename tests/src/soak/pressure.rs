//! More Services and backends than the tables hold.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};

use super::world::{World, gone};
use crate::{apiserver::ApiServer as _, topology::service_v4};

/// Where they are.
pub const NAMESPACE: &str = "pressure";

/// How many Services, of so many endpoints each: several times what there is room for.
const SERVICES: u16 = 60;
const ENDPOINTS: u16 = 12;

fn service(n: u16) -> Value {
    let address = service_v4(1000 + n);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("many-{n}"), "namespace": NAMESPACE},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}],
        },
    })
}

/// Endpoints that nobody has: nobody dials these Services.
fn slice(n: u16) -> Value {
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|at| json!({"addresses": [format!("10.244.{}.{}", 100 + n, at + 1)], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("many-{n}"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": format!("many-{n}")},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// Writes them all.
pub fn apply(world: &World<'_>) {
    for n in 0..SERVICES {
        world.api.put("services", service(n));
        world.api.put("endpointslices.discovery.k8s.io", slice(n));
    }
}

/// Takes them all away; those that are gone already are fine.
pub fn relieve(world: &World<'_>) -> Result<()> {
    for n in 0..SERVICES {
        gone(world.api.admin().delete(&service(n)))?;
        gone(world.api.admin().delete(&slice(n)))?;
    }
    Ok(())
}

/// Waits until a condition holds; whether it did in time.
pub fn wait_for(patience: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
