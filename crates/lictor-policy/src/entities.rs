//! Who and what, as Cedar sees them: the operator in its groups, the node in its groups.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use lictor_proto::doc::NodeKind;
use lictor_proto::{Name, NodeId};
use lictor_trust::directory::Node;
use lictor_trust::roster::Operator;

/// A node, from its signed documents. What it reports about itself is not in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeContext {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Labels of its grant.
    pub labels: BTreeMap<Name, Name>,
    /// Groups that labels and name put it in, by `fleet.toml`.
    pub groups: Vec<Name>,
    /// What kind of node.
    pub kind: NodeKind,
}

impl From<&Node> for NodeContext {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id().clone(),
            name: node.name().clone(),
            labels: node.labels.clone(),
            groups: node.groups.clone(),
            kind: node.kind,
        }
    }
}

pub(crate) const fn kind_word(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Server => "server",
        NodeKind::Desktop => "desktop",
        NodeKind::Mobile => "mobile",
        NodeKind::Bridge => "bridge",
    }
}

/// Entities could not be built; the answer is then a denial.
#[derive(Debug, Clone, thiserror::Error)]
#[error("entities: {0}")]
pub(crate) struct EntityError(String);

fn error(e: impl std::fmt::Display) -> EntityError {
    EntityError(e.to_string())
}

/// Principal, resource and everything above them.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) principal: EntityUid,
    pub(crate) resource: EntityUid,
    pub(crate) entities: Entities,
}

impl Scene {
    fn new(operator: &Operator, node: &NodeContext) -> Result<Self, EntityError> {
        let principal = uid("Operator", operator.name.as_str())?;
        let resource = uid("Node", node.id.as_str())?;
        let groups = operator
            .groups
            .iter()
            .map(|g| uid("Group", g.as_str()))
            .collect::<Result<Vec<_>, _>>()?;
        let node_groups = node
            .groups
            .iter()
            .map(|g| uid("NodeGroup", g.as_str()))
            .collect::<Result<Vec<_>, _>>()?;
        let labels = node.labels.iter().map(|(k, v)| text(&format!("{k}={v}")));
        let entities = [
            entity(
                principal.clone(),
                [
                    ("name", text(operator.name.as_str())),
                    ("kind", text(operator.kind.as_str())),
                ],
                groups.clone(),
            )?,
            entity(
                resource.clone(),
                [
                    ("name", text(node.name.as_str())),
                    ("kind", text(kind_word(node.kind))),
                    ("labels", RestrictedExpression::new_set(labels)),
                ],
                node_groups.clone(),
            )?,
        ];
        let above = groups
            .into_iter()
            .chain(node_groups)
            .map(|uid| Entity::new_no_attrs(uid, Default::default()));
        let entities = Entities::from_entities(entities.into_iter().chain(above), None).map_err(error)?;
        Ok(Self {
            principal,
            resource,
            entities,
        })
    }
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn entity<const N: usize>(
    uid: EntityUid,
    attributes: [(&str, RestrictedExpression); N],
    parents: Vec<EntityUid>,
) -> Result<Entity, EntityError> {
    let attributes = attributes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    Entity::new(uid, attributes, parents.into_iter().collect()).map_err(error)
}

pub(crate) fn uid(kind: &str, id: &str) -> Result<EntityUid, EntityError> {
    let kind: EntityTypeName = kind.parse().map_err(error)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

/// Scenes that were built before. A node sees few operators, so few are kept; the cache lives as long as the law.
#[derive(Debug, Default)]
pub(crate) struct EntityCache(Mutex<HashMap<Name, (NodeContext, Arc<Scene>)>>);

const MAX_SCENES: usize = 256;

impl EntityCache {
    /// The scene of this operator and this node. The operator must come from the roster of the same law.
    pub(crate) fn scene(&self, operator: &Operator, node: &NodeContext) -> Result<Arc<Scene>, EntityError> {
        // Nothing in here can be left half done, so a poisoned lock holds good entries.
        let mut scenes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, scene)) = scenes.get(&operator.name)
            && known == node
        {
            return Ok(Arc::clone(scene));
        }
        let scene = Arc::new(Scene::new(operator, node)?);
        if scenes.len() >= MAX_SCENES {
            scenes.clear();
        }
        scenes.insert(operator.name.clone(), (node.clone(), Arc::clone(&scene)));
        Ok(scene)
    }
}
