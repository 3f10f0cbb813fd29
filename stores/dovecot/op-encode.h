/* Builds the bytes of one operation; mirrors `agent-types/src/op/codec.rs`.
 *
 * Owns: one growing buffer with a fixed limit. What can hurt: a value past its limit; the first one makes the
 * whole operation invalid (`op_bytes` gives NULL), never a shortened one. Refuses: knowing Dovecot. */
#ifndef UNDERSTUDY_OP_ENCODE_H
#define UNDERSTUDY_OP_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "op-format.h"

struct op {
    unsigned char *data; /* malloc'ed, NULL before the first byte */
    size_t used, size;
    unsigned int keywords;
    bool invalid; /* out of memory or past a limit */
};

/* Starts an operation in a struct that need not be initialised. Every start is paired with op_free. */
void op_begin(struct op *op, enum op_kind kind);
void op_free(struct op *op);

/* Appends a field. Empty texts and zero numbers are left out, as the format says. A NULL text is an empty one. */
void op_put_bytes(struct op *op, enum op_tag tag, const void *value, size_t bytes, size_t bytes_max);
void op_put_text(struct op *op, enum op_tag tag, const char *value, size_t bytes_max);
void op_put_u32(struct op *op, enum op_tag tag, uint32_t value);
void op_put_u64(struct op *op, enum op_tag tag, uint64_t value);
void op_put_keyword(struct op *op, const char *keyword);
/* The GUID is left out when it is all zeros. */
void op_put_guid(struct op *op, enum op_tag tag, const unsigned char guid[OP_GUID_BYTES]);

/* Fills in the length. NULL if the operation passed a limit; the pointer lives until op_free. */
const unsigned char *op_bytes(struct op *op, size_t *bytes_r);

#endif
