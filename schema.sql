-- What the indexer writes and the XRPC layer reads: every table of Rescind.
--
-- Conventions
--   * Times are Unix milliseconds, but for a `rev`: that is the repo's own clock (a TID), and
--     it alone decides what is older. TIDs sort as text.
--   * CIDs and AT-URIs are in their text form; an AT-URI's authority is always a DID.
--   * A URI's state follows from the newest revision that is known of it, so every event can
--     be applied again, or late, without harm.
-- The version of this file is `user_version`; indexer/store/migrations.py takes on older files.

-- Where the stream of each relay host is read up to. Relays number their own streams.
create table cursors (
    relay      text    primary key,                  -- host[:port]
    seq        integer not null check (seq >= 0),    -- the last frame whose effect is in this file
    time       text,                                 -- when the relay says that it sent that frame
    applied_at integer not null,
    mark       blob                                  -- the beginning of that frame's SHA-256: if the
                                                     -- relay has another one there, it numbers anew
) strict, without rowid;

-- The tracked repos: those that have, or had, a record of ours, and those an operator named.
create table repos (
    id            integer primary key,   -- grows, so that a reader can ask for those it has not seen
    did           text    not null unique,
    rev           text,                  -- the newest revision that was applied; null before the first
    data          text,                  -- the root of the MST at that revision
    -- pending: seen in the middle of its life, its older records are still unknown;
    -- synchronized: complete up to `rev`; desynchronized: something was missed or not proven.
    sync          text    not null default 'pending'
                  check (sync in ('pending', 'synchronized', 'desynchronized')),
    -- What the host says of the account. Only an active repo's records are shown.
    hosting       text    not null default 'active'
                  check (hosting in ('active', 'deactivated', 'suspended', 'takendown', 'deleted',
                                     'inactive')),
    -- The frame that said so, of a relay or of a replay ("replay <UUID>"): see indexer/rules/repo_rules.py.
    hosting_relay text,
    hosting_seq   integer,
    hosting_time  text,
    -- Up to here all is known: `rev`, or less while something is missing.
    whole_rev       text,
    -- Behind this revision no commit up to `rev` is missing: a copy of the repo at it, or at a
    -- later revision, makes the repo whole.
    stretch         text,
    -- The next attempt to fetch it, while it is not whole.
    resync_due_at   integer not null default 0,
    resync_attempts integer not null default 0,
    resync_error    text,
    resync_whole    integer not null default 0 check (resync_whole in (0, 1)), -- by its CAR and not by parts
    sends_prev_data integer not null default 0 check (sends_prev_data in (0, 1)),
    -- Once a commit of it has said which tree it changed one that does not is not applied: neither
    -- that nor the operations are signed and a relay could leave out a deletion.
    -- Above 0: a search for repos ended before this one was ever tried. It is settled once that has
    -- been or was put off as often as this says.
    awaited         integer not null default 0 check (awaited between 0 and 3)
) strict;
create index repos_to_resync on repos (resync_due_at)
    where sync <> 'synchronized' and hosting = 'active';
-- Of these something was missed: perhaps that they are back.
create index repos_to_ask on repos (resync_due_at)
    where sync = 'desynchronized' and hosting not in ('active', 'deleted');
create index repos_awaited on repos (did) where awaited > 0;

-- One row a record that fits its lexicon. `revoked` says that a tombstone with the cause
-- 'revoked' exists for this URI and CID: the row is kept to tell what was revoked, and never
-- grants anything. A record that its own repo deleted has no row, only a tombstone.
create table spaces (
    uri         text    primary key,
    did         text    not null references repos (did),
    cid         text    not null,
    rev         text    not null,
    revoked     integer not null default 0 check (revoked in (0, 1)),
    name        text,
    description text,
    created_at  integer not null
) strict, without rowid;
create index spaces_by_owner on spaces (did);

create table invites (
    uri        text    primary key,
    did        text    not null references repos (did),
    cid        text    not null,
    rev        text    not null,
    revoked    integer not null default 0 check (revoked in (0, 1)),
    space_uri  text    not null,
    token_hash text    not null check (length(token_hash) = 64),
    kind       text    not null check (kind in ('join', 'read', 'read-join')),
    max_uses   integer check (max_uses >= 1),
    expires_at integer,
    note       text,
    created_at integer not null,
    -- An invite is the owner's word. Others' lie in untrusted_invites.
    check (substr(space_uri, 1, length(did) + 6) = 'at://' || did || '/')
) strict, without rowid;
create index invites_by_token on invites (token_hash, space_uri);
create index invites_by_space on invites (space_uri, created_at, uri);
create index invites_by_repo on invites (did);

-- Invites that somebody else than the space's owner wrote: they grant nothing, ever.
create table untrusted_invites (
    uri        text primary key,
    did        text not null references repos (did),
    cid        text not null,
    rev        text not null,
    space_uri  text not null,
    token_hash text not null check (length(token_hash) = 64)
) strict, without rowid;
create index untrusted_invites_by_repo on untrusted_invites (did);

create table verifications (
    uri          text    primary key,
    did          text    not null references repos (did),    -- the issuer
    cid          text    not null,
    rev          text    not null,
    revoked      integer not null default 0 check (revoked in (0, 1)),
    subject      text    not null,
    handle       text    not null,
    display_name text    not null,
    created_at   integer not null
) strict, without rowid;
-- A page of a list is one range of one of these for each issuer or subject that it names, or for
-- each of both: anybody can verify a subject, and so keep what one issuer says of it out of sight.
create index verifications_by_time on verifications (revoked, created_at, uri);
create index verifications_by_issuer on verifications (did, revoked, created_at, uri);
create index verifications_by_subject on verifications (subject, revoked, created_at, uri);
create index verifications_by_both on verifications (subject, did, revoked, created_at, uri);

-- The durable mark that a version of a record is gone, and an invite's token with it. Rows are
-- never deleted. A revocation never loses its cause, and the first one's who, why and when stay.
create table tombstones (
    uri        text    not null,
    cid        text    not null,    -- the version that is gone; '' if it was never seen
    kind       text    not null check (kind in ('space', 'invite', 'verification')),
    did        text    not null,
    rev        text    not null,    -- no version of the URI up to here lives; '' while unknown
    -- revoked: somebody asked us; deleted: the repo did; replaced: by a record that does not fit
    -- its lexicon; purged: the whole account was deleted.
    cause      text    not null check (cause in ('revoked', 'deleted', 'replaced', 'purged')),
    actor      text,                -- the DID that asked
    reason     text,
    created_at integer not null,
    -- Of an invite: a revoked hash stays revoked in its space, whichever record carries it.
    space_uri  text,
    token_hash text check (length(token_hash) = 64),
    primary key (uri, cid),
    check ((cause = 'revoked') = (actor is not null)),
    check ((space_uri is null) = (token_hash is null))
) strict, without rowid;
-- The first revocation of a token is one seek: any number of records may carry, and have carried, it.
create index tombstones_by_token on tombstones (space_uri, token_hash, cause, created_at)
    where token_hash is not null;
create index tombstones_by_kind on tombstones (kind);

-- Who belongs to a space besides its owner. Known to this AppView alone: no record says it.
create table members (
    space_uri  text    not null,
    did        text    not null,
    rev        text    not null,    -- of the space's record that they came into: they end with it
    -- Of the invite that let them in; null for who was added by the owner, without being asked.
    token_hash text    check (length(token_hash) = 64),
    added_by   text    not null,    -- the DID that wrote the invite, or added them
    added_at   integer not null,
    perms      text    not null default 'write' check (perms in ('read', 'write')),
    primary key (space_uri, did)
) strict, without rowid;
create index members_by_did on members (did, space_uri);
create index members_added on members (space_uri) where token_hash is null;

-- What is known of an invite's token besides its records: a row for each space that has, or had, an
-- invite with it. A hash is public, so that anybody may put it into invites to spaces of his own.
create table invite_tokens (
    space_uri  text    not null,     -- first, so that what the list of a space needs lies together
    token_hash text    not null check (length(token_hash) = 64),
    did        text    not null,     -- the space's owner, who so claims the token
    -- What a token that is bound to this space carries of it: the beginning of the SHA-256 of its URI.
    -- Such a token leads to no other space, whatever is claimed.
    binding    text    not null check (length(binding) = 32),
    -- The token, if it is bound to no space, is this owner's. That is decided once, for good, and
    -- only while nobody else claims it: when the live stream shows the claim, or when a search for
    -- repos has come to its end (`settled` in backfills). A claim found in any other way decides
    -- nothing, and is in the way of those that come after it.
    owned      integer not null default 0 check (owned in (0, 1)),
    used_count integer not null default 0 check (used_count >= 0),
    -- Of the record that was created here with it, noted before it is written: that can be revoked
    -- before the firehose shows it. Null for what came in any other way.
    uri        text,
    primary key (space_uri, token_hash)
) strict, without rowid;
create unique index invite_tokens_owned on invite_tokens (token_hash) where owned = 1;
create index invite_tokens_by_owner on invite_tokens (token_hash, did);
create index invite_tokens_by_binding on invite_tokens (token_hash, binding);

-- The deletions to publish: one row a URI.
create table outbox (
    id         integer primary key,
    uri        text    not null unique,
    did        text    not null,
    collection text    not null,
    rkey       text    not null,
    -- pending: to be written; sent: the PDS acknowledged; confirmed: seen on the firehose, or the
    -- PDS says that there is no such record; blocked: needs a person; dropped: a person gave up.
    state      text    not null default 'pending'
               check (state in ('pending', 'sent', 'confirmed', 'blocked', 'dropped')),
    record_rev text    not null default '',   -- a deletion counts as ours if it is later than this
    -- The revision that deleted it, as the PDS or the stream says; of one that was dropped, that of
    -- the moment: what was written until then falls under the revocation, also if it comes later.
    commit_rev text,
    attempts   integer not null default 0,
    due_at     integer not null,              -- not before; a claim moves it on, so that it is a lease
    error      text,                          -- why it is not done yet, or was dropped
    created_at integer not null,
    updated_at integer not null,
    check (state <> 'sent' or commit_rev is not null)
) strict;
create index outbox_due on outbox (due_at) where state in ('pending', 'sent');
create index outbox_by_repo on outbox (did, state, due_at);
create index outbox_by_state on outbox (state, created_at);

-- While there is a row, nothing is written into any repo: a copy that was restored may be a test.
create table pause (
    id        integer primary key check (id = 1),
    paused_at integer not null,
    reason    text    not null
) strict;

-- Who did what, for good: revocations, and what operators did at the terminal.
create table audit (
    id      integer primary key,
    at      integer not null,
    actor   text    not null,
    action  text    not null,
    subject text    not null,
    detail  text
) strict;
create index audit_by_subject on audit (subject);

-- The accounts whose repos we may write to. `sealed` is encrypted with the key of the settings.
create table sessions (
    did          text    primary key,
    handle       text,
    pds          text    not null,
    sealed       blob    not null,
    created_at   integer not null,
    refreshed_at integer not null,
    refused      text       -- why the PDS refuses it; null while it works
) strict, without rowid;

-- The service-auth tokens that procedures have taken: each is written in the transaction of what it
-- was used for, so that a restart takes none again. They go some time after they have ended.
create table used_tokens (
    key     blob    primary key check (length(key) = 32),    -- a hash of the issuer and the `jti`
    issuer  text    not null,
    ends_at integer not null                                 -- from then on its `exp` refuses it
) strict, without rowid;
create index used_tokens_by_end on used_tokens (ends_at);

-- How far the search for repos with records of ours is, by relay host and collection.
create table backfills (
    relay       text    not null,
    collection  text    not null,    -- '' for all repos, where a host can't tell by collection
    page_cursor text,                -- where the next page begins; null at the beginning
    found       integer not null default 0,
    done_at     integer,             -- null while there are more pages
    -- 0: not all that is in the network is known: this is the first search or one that was begun
    -- because events were missed. Nobody knows then who else claims an invite's token. 1: it has
    -- ended and each repo that was known at its end has been fetched or tried.
    settled     integer not null default 0 check (settled in (0, 1)),
    primary key (relay, collection)
) strict, without rowid;

-- What the running (or last) daemon says of itself, for `rescind status`.
create table daemon (
    id         integer primary key check (id = 1),
    pid        integer not null,
    version    text    not null,
    relay      text    not null,
    started_at integer not null,
    -- The pace, when the cursor moved last; null before that.
    rate         real,                                    -- frames a second
    is_behind    integer check (is_behind in (0, 1)),     -- so far that it has to catch up
    seconds_left real                                     -- until it is live; null if unknown
) strict;

-- Since its start: what it skipped, rejected, or only noted, by reason; and by which way repos were
-- proven, in how many bytes and requests.
create table counters (
    kind   text    not null check (kind in ('skipped', 'rejected', 'noted',
                                            'resynced', 'resync_bytes', 'resync_requests')),
    reason text    not null,
    count  integer not null,
    primary key (kind, reason)
) strict, without rowid;
