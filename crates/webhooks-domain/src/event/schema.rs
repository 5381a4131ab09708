//! The sanitising policy as a table: every path an event may have, its type, and the profiles it
//! leaves in.
//!
//! A transcript of the policy file, checked against it by a test, so that neither can change
//! alone. Members stand in the sample's order, then those the sample does not show: a walk looks
//! for the member after the last one first, and publishers send them in about this order, so a
//! lookup is one comparison nearly always.

use super::profile::Profile;
use super::scan::Kind;

/// A set of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profiles(u8);

/// Every profile, `thin` included.
const ALL: Profiles = Profiles(0b111);
/// `standard` and `strict`.
const FULL: Profiles = Profiles(0b011);
/// `standard` alone.
const STANDARD: Profiles = Profiles(0b001);
/// No profile: read at ingest, never delivered.
const NEVER: Profiles = Profiles(0);

impl Profiles {
    pub(crate) const fn contains(self, profile: Profile) -> bool {
        self.0 & (1 << profile as u8) != 0
    }
}

/// A set of JSON types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Types(u8);

impl Types {
    const STRING: Self = Self(1);
    const INTEGER: Self = Self(2);
    const NUMBER: Self = Self(4);
    const BOOLEAN: Self = Self(8);
    const OBJECT: Self = Self(16);
    const ARRAY: Self = Self(32);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a value of this kind may stand here. `null` may stand anywhere. Where the policy
    /// says integer any number passes: its text is delivered as it came, and dropping `45.0`
    /// would help nobody.
    pub(crate) const fn admits(self, kind: Kind) -> bool {
        let bits = match kind {
            Kind::String => Self::STRING.0,
            Kind::Number => Self::INTEGER.0 | Self::NUMBER.0,
            Kind::Boolean => Self::BOOLEAN.0,
            Kind::Object => Self::OBJECT.0,
            Kind::Array => Self::ARRAY.0,
            Kind::Null => return true,
        };
        self.0 & bits != 0
    }

    /// The types with their articles, for messages.
    pub(crate) const fn expected(self) -> &'static str {
        match self {
            Self::STRING => "a string",
            Self::INTEGER | Self::NUMBER => "a number",
            Self::BOOLEAN => "a boolean",
            Self::OBJECT => "an object",
            Self::ARRAY => "an array",
            ATTRIBUTES => "an object or an array",
            TAG => "a string or an object",
            _ => OTHER_TYPES,
        }
    }
}

/// What a set of types is called that no member has; a test sees to that.
const OTHER_TYPES: &str = "of another type";

/// What stands at a path.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// A scalar.
    Scalar(Types),
    /// A string that holds an IP address: truncated in `strict`.
    Address,
    /// An object with known members.
    Object(&'static [Member]),
    /// An array of elements of these types; names are denied inside them.
    List(Types),
    /// A subtree that passes byte for byte.
    Open(Types),
    /// A subtree that passes byte for byte, except denied names.
    Payload,
}

impl Shape {
    /// The types a value may have here: any other is refused at ingest, and dropped when rendered.
    pub(crate) const fn types(self) -> Types {
        match self {
            Self::Scalar(types) | Self::Open(types) => types,
            Self::Address => Types::STRING,
            Self::Object(_) | Self::Payload => Types::OBJECT,
            Self::List(_) => Types::ARRAY,
        }
    }
}

/// The fields that parsing looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    None,
    Id,
    Type,
    Timestamp,
    Lbid,
    Event,
    EventId,
    WorkspaceId,
    LinkId,
    Webhook,
    WorkflowStep,
    StepId,
    StepKind,
    EventAction,
    DeviceWorkspace,
    LeadScoreWorkspace,
    LinkWorkspace,
    NestedWorkspace,
    CustomAttributes,
}

impl Slot {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::CustomAttributes as usize + 1;

    /// Whether a member of this slot may be absent or null and has no other rule for its type, so
    /// that the type is judged where the member stands. What a publisher says of a webhook is
    /// never passed on, and not judged at all.
    pub(crate) const fn is_typed_in_place(self) -> bool {
        matches!(
            self,
            Self::None
                | Self::EventAction
                | Self::DeviceWorkspace
                | Self::LeadScoreWorkspace
                | Self::LinkWorkspace
                | Self::NestedWorkspace
        )
    }
}

/// Where an event names its workspace besides `event.workspaceId`, and the paths of these places.
pub(crate) const NESTED_WORKSPACES: [(Slot, &str); 4] = [
    (Slot::DeviceWorkspace, "event.device.workspaceId"),
    (Slot::LeadScoreWorkspace, "event.leadScore.workspaceId"),
    (Slot::LinkWorkspace, "event.link.workspaceId"),
    (Slot::NestedWorkspace, "event.workspace.id"),
];

/// One member of a known object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) kept: Profiles,
    pub(crate) slot: Slot,
}

impl Member {
    const fn new(name: &'static str, shape: Shape, kept: Profiles) -> Self {
        Self {
            name,
            shape,
            kept,
            slot: Slot::None,
        }
    }

    const fn slot(self, slot: Slot) -> Self {
        Self { slot, ..self }
    }
}

/// The index of the member called `name`; `hint` is where to look first.
#[inline]
pub(crate) fn find(members: &[Member], name: &str, hint: usize) -> Option<usize> {
    if members.get(hint).is_some_and(|member| member.name == name) {
        return Some(hint);
    }
    members.iter().position(|member| member.name == name)
}

/// Whether the webhook object's member `name` leaves in `profile`.
pub(crate) fn webhook_keeps(name: &str, profile: Profile) -> bool {
    WEBHOOK
        .iter()
        .any(|member| member.name == name && member.kept.contains(profile))
}

const fn text(name: &'static str, kept: Profiles) -> Member {
    Member::new(name, Shape::Scalar(Types::STRING), kept)
}

const fn integer(name: &'static str, kept: Profiles) -> Member {
    Member::new(name, Shape::Scalar(Types::INTEGER), kept)
}

const fn number(name: &'static str, kept: Profiles) -> Member {
    Member::new(name, Shape::Scalar(Types::NUMBER), kept)
}

const fn boolean(name: &'static str, kept: Profiles) -> Member {
    Member::new(name, Shape::Scalar(Types::BOOLEAN), kept)
}

/// An object leaves where any of its members does.
const fn object(name: &'static str, members: &'static [Member]) -> Member {
    let mut kept = 0;
    let mut index = 0;
    while index < members.len() {
        kept |= members[index].kept.0;
        index += 1;
    }
    Member::new(name, Shape::Object(members), Profiles(kept))
}

const ATTRIBUTES: Types = Types::OBJECT.or(Types::ARRAY);

const TAG: Types = Types::STRING.or(Types::OBJECT);

/// The whole document.
pub(crate) static ROOT: [Member; 8] = [
    object("event", &EVENT).slot(Slot::Event),
    object("webhook", &WEBHOOK).slot(Slot::Webhook),
    object("workflowStep", &WORKFLOW_STEP).slot(Slot::WorkflowStep),
    text("timestamp", ALL).slot(Slot::Timestamp),
    text("type", ALL).slot(Slot::Type),
    text("lbid", ALL).slot(Slot::Lbid),
    Member::new("customAttributes", Shape::Open(Types::OBJECT), FULL).slot(Slot::CustomAttributes),
    text("id", NEVER).slot(Slot::Id),
];

const EVENT: [Member; 23] = [
    text("id", ALL).slot(Slot::EventId),
    text("deviceId", STANDARD),
    object("device", &DEVICE),
    text("leadScoreId", STANDARD),
    object("leadScore", &LEAD_SCORE),
    text("action", FULL),
    text("httpMethod", FULL),
    text("scannedAt", FULL),
    text("triggeredBy", FULL),
    object("link", &LINK),
    text("linkId", ALL).slot(Slot::LinkId),
    text("entrypoint", FULL),
    text("destination", FULL),
    object("workspace", &WORKSPACE),
    text("workspaceId", ALL).slot(Slot::WorkspaceId),
    text("createdAt", FULL),
    text("updatedAt", FULL),
    text("visitType", FULL),
    text("visitorId", STANDARD),
    text("destinationAction", FULL),
    object("journey", &JOURNEY),
    object("visitor", &VISITOR),
    Member::new("formResponses", Shape::Open(ATTRIBUTES), FULL),
];

const DEVICE: [Member; 23] = [
    text("id", STANDARD),
    text("workspaceId", FULL).slot(Slot::DeviceWorkspace),
    text("deviceType", FULL),
    text("deviceBrand", FULL),
    text("browserName", FULL),
    text("browserVersion", FULL),
    text("browserLanguage", FULL),
    text("platformName", FULL),
    text("platformVersion", FULL),
    text("userAgent", STANDARD),
    Member::new("ipAddress", Shape::Address, FULL),
    text("lastUsedAt", STANDARD),
    text("createdAt", STANDARD),
    text("updatedAt", STANDARD),
    text("country", FULL),
    text("region", FULL),
    text("state", FULL),
    text("city", STANDARD),
    text("timezone", STANDARD),
    text("deviceName", STANDARD),
    text("deviceActor", STANDARD),
    text("deviceActorName", STANDARD),
    text("deviceActorOrigin", STANDARD),
];

const LEAD_SCORE: [Member; 12] = [
    text("id", STANDARD),
    text("linkId", FULL),
    text("workspaceId", FULL).slot(Slot::LeadScoreWorkspace),
    integer("leadScore", FULL),
    integer("educationLevel", STANDARD),
    integer("wealthIndicator", STANDARD),
    integer("technologicalAptitude", STANDARD),
    integer("professionalIntent", STANDARD),
    integer("engagementQuality", STANDARD),
    integer("recurringInterest", STANDARD),
    text("createdAt", FULL),
    text("updatedAt", FULL),
];

const LINK: [Member; 18] = [
    text("id", FULL),
    text("shortlink", FULL),
    text("entrypoint", FULL),
    text("fallbackDestination", FULL),
    text("workspaceId", FULL).slot(Slot::LinkWorkspace),
    text("qrcodeDesignId", STANDARD),
    text("qrcodeTemplateId", STANDARD),
    text("createdAt", FULL),
    text("updatedAt", FULL),
    integer("eventCount", FULL),
    text("name", FULL),
    text("purpose", STANDARD),
    text("customDomain", STANDARD),
    text("expiresAt", STANDARD),
    text("expiredDestination", STANDARD),
    text("directoryId", STANDARD),
    Member::new("tags", Shape::List(TAG), FULL),
    Member::new("metadata", Shape::Open(Types::OBJECT), FULL),
];

const WORKSPACE: [Member; 8] = [
    text("id", FULL).slot(Slot::NestedWorkspace),
    text("name", FULL),
    text("linkSettingId", STANDARD),
    text("timezone", FULL),
    text("country", FULL),
    text("createdAt", FULL),
    text("updatedAt", FULL),
    text("slug", STANDARD),
];

const JOURNEY: [Member; 3] = [
    boolean("completed", FULL),
    integer("stepsReached", FULL),
    integer("stepsTotal", FULL),
];

const VISITOR: [Member; 9] = [
    text("id", STANDARD),
    integer("visitCount", STANDARD),
    text("createdAt", STANDARD),
    text("updatedAt", STANDARD),
    text("email", FULL),
    text("phone", FULL),
    text("firstName", FULL),
    text("lastName", FULL),
    Member::new("attributes", Shape::Open(ATTRIBUTES), FULL),
];

const WORKFLOW_STEP: [Member; 8] = [
    text("id", ALL).slot(Slot::StepId),
    text("linkId", FULL),
    text("eventAction", ALL).slot(Slot::EventAction),
    Member::new("payload", Shape::Payload, FULL),
    object("canvasPosition", &CANVAS_POSITION),
    text("kind", ALL).slot(Slot::StepKind),
    text("createdAt", FULL),
    text("updatedAt", FULL),
];

const CANVAS_POSITION: [Member; 2] = [number("x", STANDARD), number("y", STANDARD)];

/// The snapshot's members. `endpointUrl` leaves without query, user info and fragment.
const WEBHOOK: [Member; 15] = [
    text("id", ALL),
    text("name", FULL),
    text("endpointUrl", STANDARD),
    text("status", FULL),
    text("workspaceId", FULL),
    text("linkId", FULL),
    text("createdBy", STANDARD),
    text("source", FULL),
    Member::new("triggers", Shape::List(Types::STRING), FULL),
    text("createdAt", FULL),
    text("updatedAt", FULL),
    text("lastSentAt", STANDARD),
    text("lastDeliveredAt", STANDARD),
    integer("successCount", STANDARD),
    integer("failureCount", STANDARD),
];

#[cfg(test)]
mod tests;
