/* One connection of the agent: messages in, replies out. docs/formats.md, "Replay service".
 *
 * Owns: framing. What can hurt: a peer of the socket that sends anything at all, or stops reading in the middle of a
 * dump: every length is checked before it is used, buffers are bounded, and a send that makes no progress ends the
 * connection. Refuses: a message longer than the limit (the connection is closed: its end cannot be found). */

#include "replay.h"

#include "ioloop.h"
#include "master-service.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define REPLY_BIT 0x8000u
#define READ_BYTES 65536u

/* client_limit is 1, but nothing here depends on it. */
static struct replay_conn *conns;

void replay_put_u16(buffer_t *out, uint16_t value)
{
    const unsigned char raw[2] = { (unsigned char)value, (unsigned char)(value >> 8) };

    buffer_append(out, raw, sizeof(raw));
}

void replay_put_u32(buffer_t *out, uint32_t value)
{
    const unsigned char raw[4] = { (unsigned char)value, (unsigned char)(value >> 8), (unsigned char)(value >> 16),
                       (unsigned char)(value >> 24) };

    buffer_append(out, raw, sizeof(raw));
}

uint32_t replay_get_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t replay_get_u64(const unsigned char *p)
{
    return (uint64_t)replay_get_u32(p) | (uint64_t)replay_get_u32(p + 4) << 32;
}

static bool send_all(struct replay_conn *conn, const unsigned char *data, size_t size)
{
    while (size > 0 && !conn->broken) {
        ssize_t ret = send(conn->fd, data, size, MSG_NOSIGNAL);

        if (ret < 0 && errno == EINTR)
            continue;
        if (ret <= 0) {
            conn->broken = TRUE;
            break;
        }
        data += ret;
        size -= (size_t)ret;
    }
    return !conn->broken;
}

bool replay_send(struct replay_conn *conn, uint16_t command, uint32_t request, enum replay_status status,
                 const void *body, size_t size)
{
    buffer_t *head = t_buffer_create(REPLAY_HEAD_BYTES);

    replay_put_u32(head, (uint32_t)(REPLAY_HEAD_BYTES - 4 + size));
    replay_put_u16(head, (uint16_t)(command | REPLY_BIT));
    replay_put_u16(head, (uint16_t)status);
    replay_put_u32(head, request);
    return send_all(conn, head->data, head->used) && send_all(conn, body, size);
}

bool replay_conn_is_gone(struct replay_conn *conn)
{
    char byte;

    if (!conn->broken)
        conn->broken = recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
    return conn->broken;
}

/* Users stay open for the next connection: opening one costs more than a small batch. */
static void conn_destroy(struct replay_conn *conn)
{
    struct replay_conn **p;

    for (p = &conns; *p != NULL; p = &(*p)->next) {
        if (*p == conn) {
            *p = conn->next;
            break;
        }
    }
    io_remove(&conn->io);
    i_close_fd(&conn->fd);
    buffer_free(&conn->in);
    i_free(conn->account);
    i_free(conn->spool);
    i_free(conn);
    master_service_client_connection_destroyed(master_service);
}

/* Takes every whole message out of the buffer. FALSE: the peer does not speak the protocol. */
static bool handle_buffered(struct replay_conn *conn)
{
    size_t at = 0;

    while (!conn->broken && conn->in->used - at >= REPLAY_HEAD_BYTES) {
        const unsigned char *message = CONST_PTR_OFFSET(conn->in->data, at);
        uint32_t len = replay_get_u32(message);

        if (len < REPLAY_HEAD_BYTES - 4 || len > REPLAY_MESSAGE_BYTES_MAX)
            return FALSE;
        if (conn->in->used - at < (size_t)len + 4)
            break;
        T_BEGIN {
            replay_request(conn, message, (size_t)len + 4);
        } T_END;
        at += (size_t)len + 4;
    }
    buffer_delete(conn->in, 0, at);
    /* A large request's memory goes back at once: the next one is likely to be small. */
    if (conn->in->used == 0 && buffer_get_size(conn->in) > 16 * READ_BYTES) {
        buffer_free(&conn->in);
        conn->in = buffer_create_dynamic(default_pool, READ_BYTES);
    }
    return !conn->broken;
}

static void conn_input(struct replay_conn *conn)
{
    unsigned char *room;
    size_t used = conn->in->used;
    ssize_t ret;

    room = buffer_append_space_unsafe(conn->in, READ_BYTES);
    ret = recv(conn->fd, room, READ_BYTES, MSG_DONTWAIT);
    buffer_set_used_size(conn->in, used + (ret > 0 ? (size_t)ret : 0));
    if (ret < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (ret <= 0 || !handle_buffered(conn))
        conn_destroy(conn);
}

void replay_conn_create(int fd)
{
    const struct timeval patience = { .tv_sec = REPLAY_SEND_SECONDS_MAX, .tv_usec = 0 };
    struct replay_conn *conn = i_new(struct replay_conn, 1);
    static uint64_t last_serial;

    conn->serial = ++last_serial;
    conn->fd = fd;
    /* Replies are written where they arise; only reading waits in the loop. */
    net_set_nonblock(fd, FALSE);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
        i_warning("setsockopt(SO_SNDTIMEO) failed: %m");
    conn->in = buffer_create_dynamic(default_pool, READ_BYTES);
    conn->io = io_add(fd, IO_READ, conn_input, conn);
    conn->next = conns;
    conns = conn;
}

void replay_conn_destroy_all(void)
{
    while (conns != NULL)
        conn_destroy(conns);
}
