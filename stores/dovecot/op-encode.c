/* Builds the bytes of one operation. See op-encode.h. */
#include <stdlib.h>
#include <string.h>

#include "op-encode.h"

static void put_le16(unsigned char *at, uint16_t value)
{
    at[0] = (unsigned char)(value & 0xff);
    at[1] = (unsigned char)(value >> 8);
}

static void put_le32(unsigned char *at, uint32_t value)
{
    put_le16(at, (uint16_t)(value & 0xffff));
    put_le16(at + 2, (uint16_t)(value >> 16));
}

/* Room for `bytes` more; NULL, and the operation is invalid, if there is none. */
static unsigned char *op_grow(struct op *op, size_t bytes)
{
    unsigned char *at;

    if (op->invalid)
        return NULL;
    if (bytes > OP_BYTES_MAX || op->used > OP_BYTES_MAX - bytes) {
        op->invalid = true;
        return NULL;
    }
    if (op->used + bytes > op->size) {
        size_t size = op->size == 0 ? 512 : op->size;
        while (size < op->used + bytes)
            size *= 2;
        unsigned char *data = realloc(op->data, size);
        if (data == NULL) {
            op->invalid = true;
            return NULL;
        }
        op->data = data;
        op->size = size;
    }
    at = op->data + op->used;
    op->used += bytes;
    return at;
}

void op_begin(struct op *op, enum op_kind kind)
{
    memset(op, 0, sizeof(*op));
    unsigned char *head = op_grow(op, OP_HEAD_BYTES);
    if (head != NULL) {
        memset(head, 0, OP_HEAD_BYTES);
        put_le16(head, (uint16_t)kind);
    }
}

void op_free(struct op *op)
{
    free(op->data);
    memset(op, 0, sizeof(*op));
}

void op_put_bytes(struct op *op, enum op_tag tag, const void *value, size_t bytes, size_t bytes_max)
{
    if (bytes > bytes_max || bytes > OP_BYTES_MAX) {
        op->invalid = true;
        return;
    }
    unsigned char *at = op_grow(op, OP_FIELD_HEAD_BYTES + bytes);
    if (at == NULL)
        return;
    put_le16(at, (uint16_t)tag);
    put_le32(at + 2, (uint32_t)bytes);
    if (bytes > 0)
        memcpy(at + OP_FIELD_HEAD_BYTES, value, bytes);
}

void op_put_text(struct op *op, enum op_tag tag, const char *value, size_t bytes_max)
{
    if (value != NULL && *value != '\0')
        op_put_bytes(op, tag, value, strlen(value), bytes_max);
}

void op_put_u32(struct op *op, enum op_tag tag, uint32_t value)
{
    unsigned char bytes[4];

    if (value == 0)
        return;
    put_le32(bytes, value);
    op_put_bytes(op, tag, bytes, sizeof(bytes), sizeof(bytes));
}

void op_put_u64(struct op *op, enum op_tag tag, uint64_t value)
{
    unsigned char bytes[8];

    if (value == 0)
        return;
    put_le32(bytes, (uint32_t)(value & 0xffffffff));
    put_le32(bytes + 4, (uint32_t)(value >> 32));
    op_put_bytes(op, tag, bytes, sizeof(bytes), sizeof(bytes));
}

void op_put_keyword(struct op *op, const char *keyword)
{
    if (++op->keywords > OP_KEYWORDS_MAX)
        op->invalid = true;
    op_put_text(op, OP_TAG_KEYWORD, keyword, OP_TEXT_BYTES_MAX);
}

void op_put_guid(struct op *op, enum op_tag tag, const unsigned char guid[OP_GUID_BYTES])
{
    static const unsigned char zeros[OP_GUID_BYTES];

    if (memcmp(guid, zeros, OP_GUID_BYTES) != 0)
        op_put_bytes(op, tag, guid, OP_GUID_BYTES, OP_GUID_BYTES);
}

const unsigned char *op_bytes(struct op *op, size_t *bytes_r)
{
    if (op->invalid || op->used < OP_HEAD_BYTES)
        return NULL;
    put_le32(op->data + 4, (uint32_t)(op->used - OP_HEAD_BYTES));
    *bytes_r = op->used;
    return op->data;
}
