/* Reading an operation: bytes of the agent in, checked fields out. See op-decode.c. */
#ifndef UNDERSTUDY_OP_DECODE_H
#define UNDERSTUDY_OP_DECODE_H

#include "lib.h"
#include "array.h"
#include "guid.h"

#include "op-format.h"

/* One operation. Texts are copies in the pool, NUL-terminated, UTF-8; "" = absent. Numbers: 0 = absent. */
struct us_op {
    uint16_t kind;
    bool has_mailbox, has_source_mailbox, has_value, directory, private, moved;
    guid_128_t mailbox, source_mailbox;
    const char *name, *old_name, *guid, *key, *body_path;
    uint32_t uid, uid_validity, source_uid, next_uid, flags;
    int32_t received_tz_minutes;
    uint64_t modseq, highest_modseq, snapshot, size_physical_bytes;
    int64_t received_s, saved_s;
    const unsigned char *value;
    size_t value_bytes;
    /* NULL-terminated. */
    const char *const *keywords;
};

/* Reads an operation. FALSE: malformed; *error_r says by which rule. Allocates from the pool at most what the
 * bytes hold, and one pointer per keyword. The result's value points into the bytes. */
bool us_op_decode(pool_t pool, const unsigned char *bytes, size_t size, struct us_op *op_r, const char **error_r);

#endif
