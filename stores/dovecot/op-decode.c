/* Reading an operation: the agent's bytes become a struct whose every field has been checked.
 *
 * Owns: the decoding half of docs/formats.md, "Operation". What can hurt: Dovecot asserts on what it holds to be
 * impossible (a mailbox name that is not UTF-8, a UID whose successor is 0), and an assert ends the process for
 * every user it serves; so every such value stops here. Refuses: unknown kinds, a missing field, text with NUL or
 * control characters, numbers that Dovecot's index cannot hold. */

#include "op-decode.h"

#include "str.h"
#include "unichar.h"

/* One more than the largest tag that is read. */
#define TAG_COUNT (OP_TAG_BODY_PATH + 1)
/* Dovecot's index keeps UIDs in 32 bits and computes uid + 1; the last few are left alone. */
#define UID_MAX 0xfffffff0u
/* RFC 7162: a mod-sequence is a 63-bit number. */
#define MODSEQ_MAX ((uint64_t)INT64_MAX)

struct field {
    const unsigned char *value;
    size_t size;
};

struct fields {
    struct field first[TAG_COUNT];
    unsigned int keywords;
};

static uint32_t get_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get_u64(const unsigned char *p)
{
    return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

static bool fail(const char **error_r, const char *what, unsigned int tag)
{
    *error_r = t_strdup_printf("field `%u` %s", tag, what);
    return FALSE;
}

static bool text_ok(const unsigned char *p, size_t size, size_t max)
{
    size_t i;

    if (size > max || !uni_utf8_data_is_valid(p, size))
        return FALSE;
    for (i = 0; i < size; i++) {
        if (p[i] < 0x20 || p[i] == 0x7f)
            return FALSE;
    }
    return TRUE;
}

/* Walks the fields once: finds the first of each tag, counts the keywords. */
static bool gather(const unsigned char *bytes, size_t size, struct fields *f, const char **error_r)
{
    size_t at = OP_HEAD_BYTES;

    i_zero(f);
    while (at < size) {
        unsigned int tag;
        size_t len;

        if (size - at < OP_FIELD_HEAD_BYTES) {
            *error_r = "field head is cut short";
            return FALSE;
        }
        tag = (unsigned int)bytes[at] | (unsigned int)bytes[at + 1] << 8;
        len = get_u32(bytes + at + 2);
        at += OP_FIELD_HEAD_BYTES;
        if (len > size - at)
            return fail(error_r, "is longer than the operation", tag);
        if (tag == OP_TAG_KEYWORD) {
            if (++f->keywords > OP_KEYWORDS_MAX)
                return fail(error_r, "repeats too often", tag);
            /* Dovecot's index limits no keyword, but Maildir's dovecot-keywords file is read by line. */
            if (len == 0 || !text_ok(bytes + at, len, OP_TEXT_BYTES_MAX))
                return fail(error_r, "is not a keyword", tag);
        } else if (tag < TAG_COUNT && f->first[tag].value == NULL) {
            f->first[tag].value = bytes + at;
            f->first[tag].size = len;
        }
        at += len;
    }
    return TRUE;
}

static bool take_u32(const struct fields *f, unsigned int tag, uint32_t max, uint32_t *out, const char **error_r)
{
    const struct field *field = &f->first[tag];

    *out = 0;
    if (field->value == NULL)
        return TRUE;
    if (field->size != 4)
        return fail(error_r, "is not 4 bytes long", tag);
    *out = get_u32(field->value);
    return *out <= max ? TRUE : fail(error_r, "is out of range", tag);
}

static bool take_u64(const struct fields *f, unsigned int tag, uint64_t max, uint64_t *out, const char **error_r)
{
    const struct field *field = &f->first[tag];

    *out = 0;
    if (field->value == NULL)
        return TRUE;
    if (field->size != 8)
        return fail(error_r, "is not 8 bytes long", tag);
    *out = get_u64(field->value);
    return *out <= max ? TRUE : fail(error_r, "is out of range", tag);
}

/* Dates: what the index can hold (32 bits, and a sign for mail from before 1970). */
static bool take_time(const struct fields *f, unsigned int tag, int64_t *out, const char **error_r)
{
    uint64_t raw;

    if (!take_u64(f, tag, UINT64_MAX, &raw, error_r))
        return FALSE;
    *out = (int64_t)raw;
    if (*out < INT32_MIN || *out > (int64_t)UINT32_MAX)
        return fail(error_r, "is out of range", tag);
    return TRUE;
}

static bool take_guid(const struct fields *f, unsigned int tag, bool *has, guid_128_t out, const char **error_r)
{
    const struct field *field = &f->first[tag];

    *has = FALSE;
    guid_128_empty(out);
    if (field->value == NULL)
        return TRUE;
    if (field->size != GUID_128_SIZE)
        return fail(error_r, "is not 16 bytes long", tag);
    memcpy(out, field->value, GUID_128_SIZE);
    *has = !guid_128_is_empty(out);
    return TRUE;
}

static bool take_text(pool_t pool, const struct fields *f, unsigned int tag, size_t max, const char **out,
              const char **error_r)
{
    const struct field *field = &f->first[tag];

    *out = "";
    if (field->value == NULL)
        return TRUE;
    if (!text_ok(field->value, field->size, max))
        return fail(error_r, "is not a text", tag);
    *out = p_strndup(pool, field->value, field->size);
    return TRUE;
}

static bool take_bool(const struct fields *f, unsigned int tag, bool *out, const char **error_r)
{
    uint32_t raw;

    if (!take_u32(f, tag, UINT32_MAX, &raw, error_r))
        return FALSE;
    *out = raw != 0;
    return TRUE;
}

static void take_keywords(pool_t pool, const unsigned char *bytes, size_t size, unsigned int count,
              const char *const **out)
{
    const char **keywords = p_new(pool, const char *, count + 1);
    size_t at = OP_HEAD_BYTES;
    unsigned int n = 0;

    while (at < size && n < count) {
        unsigned int tag = (unsigned int)bytes[at] | (unsigned int)bytes[at + 1] << 8;
        size_t len = get_u32(bytes + at + 2);

        at += OP_FIELD_HEAD_BYTES;
        if (tag == OP_TAG_KEYWORD)
            keywords[n++] = p_strndup(pool, bytes + at, len);
        at += len;
    }
    *out = keywords;
}

/* Which fields a kind cannot do without. */
static bool check_needed(const struct us_op *op, const char **error_r)
{
    bool uid = op->uid != 0, ok = TRUE;

    switch (op->kind) {
    case OP_MAILBOX_CREATED:
    case OP_SUBSCRIBED:
    case OP_UNSUBSCRIBED:
        ok = *op->name != '\0';
        break;
    case OP_MAILBOX_DELETED:
        ok = op->has_mailbox || *op->name != '\0';
        break;
    case OP_MAILBOX_RENAMED:
        ok = *op->name != '\0' && *op->old_name != '\0';
        break;
    case OP_MAILBOX_UPDATED:
        ok = op->has_mailbox && *op->name != '\0';
        break;
    case OP_MESSAGE_SAVED:
        ok = op->has_mailbox && uid && *op->guid != '\0';
        break;
    case OP_MESSAGE_COPIED:
        ok = op->has_mailbox && uid && *op->guid != '\0' && op->has_source_mailbox && op->source_uid != 0;
        break;
    case OP_MESSAGE_EXPUNGED:
    case OP_FLAGS_SET:
        ok = op->has_mailbox && uid;
        break;
    case OP_ATTRIBUTE_SET:
        ok = *op->key != '\0';
        break;
    case OP_QUARANTINED:
    case OP_RESYNC_BEGIN:
    case OP_RESYNC_END:
        break;
    default:
        *error_r = t_strdup_printf("operation of unknown kind `%u`", op->kind);
        return FALSE;
    }
    if (!ok)
        *error_r = t_strdup_printf("operation of kind `%u` lacks a field", op->kind);
    return ok;
}

bool us_op_decode(pool_t pool, const unsigned char *bytes, size_t size, struct us_op *op_r, const char **error_r)
{
    struct fields f;
    uint32_t tz;
    uint64_t ignored;

    i_zero(op_r);
    op_r->name = op_r->old_name = op_r->guid = op_r->key = op_r->body_path = "";
    if (size < OP_HEAD_BYTES || size > OP_BYTES_MAX) {
        *error_r = "operation has a length out of range";
        return FALSE;
    }
    op_r->kind = (uint16_t)(bytes[0] | bytes[1] << 8);
    if (bytes[2] != 0 || bytes[3] != 0 || get_u32(bytes + 4) != size - OP_HEAD_BYTES) {
        *error_r = "operation has a wrong head";
        return FALSE;
    }
    if (!gather(bytes, size, &f, error_r) ||
        !take_guid(&f, OP_TAG_MAILBOX_GUID, &op_r->has_mailbox, op_r->mailbox, error_r) ||
        !take_guid(&f, OP_TAG_SOURCE_MAILBOX_GUID, &op_r->has_source_mailbox, op_r->source_mailbox, error_r) ||
        !take_text(pool, &f, OP_TAG_MAILBOX_NAME, OP_NAME_BYTES_MAX, &op_r->name, error_r) ||
        !take_text(pool, &f, OP_TAG_OLD_NAME, OP_NAME_BYTES_MAX, &op_r->old_name, error_r) ||
        !take_text(pool, &f, OP_TAG_MESSAGE_GUID, OP_TEXT_BYTES_MAX, &op_r->guid, error_r) ||
        !take_text(pool, &f, OP_TAG_ATTRIBUTE_KEY, OP_TEXT_BYTES_MAX, &op_r->key, error_r) ||
        !take_text(pool, &f, OP_TAG_BODY_PATH, OP_NAME_BYTES_MAX, &op_r->body_path, error_r) ||
        !take_u32(&f, OP_TAG_UID_VALIDITY, UINT32_MAX, &op_r->uid_validity, error_r) ||
        !take_u32(&f, OP_TAG_UID, UID_MAX, &op_r->uid, error_r) ||
        !take_u32(&f, OP_TAG_SOURCE_UID, UID_MAX, &op_r->source_uid, error_r) ||
        !take_u32(&f, OP_TAG_NEXT_UID, UID_MAX, &op_r->next_uid, error_r) ||
        !take_u32(&f, OP_TAG_FLAGS, OP_FLAGS_ALL, &op_r->flags, error_r) ||
        !take_u32(&f, OP_TAG_RECEIVED_TZ_MINUTES, UINT32_MAX, &tz, error_r) ||
        !take_u64(&f, OP_TAG_MODSEQ, MODSEQ_MAX, &op_r->modseq, error_r) ||
        !take_u64(&f, OP_TAG_HIGHEST_MODSEQ, MODSEQ_MAX, &op_r->highest_modseq, error_r) ||
        !take_u64(&f, OP_TAG_SNAPSHOT, UINT64_MAX, &op_r->snapshot, error_r) ||
        !take_u64(&f, OP_TAG_SIZE_PHYSICAL, UINT64_MAX, &op_r->size_physical_bytes, error_r) ||
        !take_u64(&f, OP_TAG_SIZE_VIRTUAL, UINT64_MAX, &ignored, error_r) ||
        !take_time(&f, OP_TAG_RECEIVED_S, &op_r->received_s, error_r) ||
        !take_time(&f, OP_TAG_SAVED_S, &op_r->saved_s, error_r) ||
        !take_bool(&f, OP_TAG_DIRECTORY, &op_r->directory, error_r) ||
        !take_bool(&f, OP_TAG_ATTRIBUTE_PRIVATE, &op_r->private, error_r) ||
        !take_bool(&f, OP_TAG_MOVED, &op_r->moved, error_r))
        return FALSE;
    /* A zone is at most 14 hours; more is noise, and the date does not depend on it. */
    op_r->received_tz_minutes = (int32_t)tz >= -24 * 60 && (int32_t)tz <= 24 * 60 ? (int32_t)tz : 0;
    if (f.first[OP_TAG_ATTRIBUTE_VALUE].value != NULL) {
        op_r->has_value = TRUE;
        op_r->value = f.first[OP_TAG_ATTRIBUTE_VALUE].value;
        op_r->value_bytes = f.first[OP_TAG_ATTRIBUTE_VALUE].size;
        if (op_r->value_bytes > OP_ATTRIBUTE_BYTES_MAX)
            return fail(error_r, "is too long", OP_TAG_ATTRIBUTE_VALUE);
    }
    take_keywords(pool, bytes, size, f.keywords, &op_r->keywords);
    return check_needed(op_r, error_r);
}
