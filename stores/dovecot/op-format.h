/* The bytes of an operation, as `docs/formats.md` ("Operation") fixes them.
 *
 * Owns: kinds, tags, flags and limits, shared by the plugin (encoder) and the replay service (decoder).
 * What can hurt: a number changed here and not in `agent-types/src/op.rs`; a test decodes what the plugin wrote.
 * Refuses: code. */
#ifndef UNDERSTUDY_OP_FORMAT_H
#define UNDERSTUDY_OP_FORMAT_H

/* Kind u16, flags u16 (zero), length of the fields u32; all numbers little-endian. */
#define OP_HEAD_BYTES 8
/* Tag u16, length u32. */
#define OP_FIELD_HEAD_BYTES 6

/* Limits in bytes, unless said otherwise. Past any of them the plugin marks a gap: the agent compares the account. */
#define OP_BYTES_MAX (192 * 1024)
#define OP_ACCOUNT_BYTES_MAX 512
#define OP_NAME_BYTES_MAX 4096
#define OP_TEXT_BYTES_MAX 1024
#define OP_KEYWORDS_MAX 1024 /* keywords of one message */
#define OP_ATTRIBUTE_BYTES_MAX (128 * 1024)
#define OP_GUID_BYTES 16
#define OP_BLOB_ID_BYTES 32

enum op_kind {
    OP_MAILBOX_CREATED = 1,
    OP_MAILBOX_DELETED = 2,
    OP_MAILBOX_RENAMED = 3,
    OP_MAILBOX_UPDATED = 4,
    OP_SUBSCRIBED = 5,
    OP_UNSUBSCRIBED = 6,
    OP_MESSAGE_SAVED = 7,
    OP_MESSAGE_COPIED = 8,
    OP_MESSAGE_EXPUNGED = 9,
    OP_FLAGS_SET = 10,
    OP_ATTRIBUTE_SET = 11,
    OP_QUARANTINED = 12,
    OP_RESYNC_BEGIN = 13,
    OP_RESYNC_END = 14,
};

enum op_tag {
    OP_TAG_MAILBOX_GUID = 1,
    OP_TAG_MAILBOX_NAME = 2,
    OP_TAG_UID_VALIDITY = 3,
    OP_TAG_UID = 4,
    OP_TAG_MESSAGE_GUID = 5,
    OP_TAG_BLOB_ID = 6,
    OP_TAG_SIZE_PHYSICAL = 7,
    OP_TAG_SIZE_VIRTUAL = 8,
    OP_TAG_RECEIVED_S = 9,
    OP_TAG_RECEIVED_TZ_MINUTES = 10,
    OP_TAG_SAVED_S = 11,
    OP_TAG_FLAGS = 12,
    OP_TAG_KEYWORD = 13,
    OP_TAG_MODSEQ = 14,
    OP_TAG_SOURCE_MAILBOX_GUID = 15,
    OP_TAG_SOURCE_UID = 16,
    OP_TAG_OLD_NAME = 17,
    OP_TAG_DIRECTORY = 18,
    OP_TAG_NEXT_UID = 19,
    OP_TAG_HIGHEST_MODSEQ = 20,
    OP_TAG_ATTRIBUTE_KEY = 21,
    OP_TAG_ATTRIBUTE_VALUE = 22,
    OP_TAG_ATTRIBUTE_PRIVATE = 23,
    OP_TAG_SNAPSHOT = 24,
    OP_TAG_MOVED = 25,
    OP_TAG_SESSION_USER = 26,
    OP_TAG_SERVICE = 27,
    OP_TAG_REASON = 28,
    OP_TAG_BODY_PATH = 40, /* only towards the replay service */
};

/* System flags, as bits of OP_TAG_FLAGS. Dovecot's `enum mail_flags` has the same values for these five. */
#define OP_FLAG_ANSWERED 0x01
#define OP_FLAG_FLAGGED 0x02
#define OP_FLAG_DELETED 0x04
#define OP_FLAG_SEEN 0x08
#define OP_FLAG_DRAFT 0x10
#define OP_FLAGS_ALL 0x1f

#endif
