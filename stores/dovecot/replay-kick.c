/* Ends users' sessions, so that their clients connect again and are led to the node that serves them now.
 *
 * Owns: which processes are told to end. Dovecot's anvil knows every session of IMAP, POP3, submission and ManageSieve
 * with its user and process; `doveadm kick` asks it, too, but for one user at a time, by a program that is to be started
 * for each. Here one answer of anvil serves for all accounts.
 * What can hurt: a process id that belongs to somebody else by now; only descendants of this service's own master are
 * told. A process that holds several users' sessions (`client_limit` above 1, imap-hibernate) ends with all of them:
 * the others' clients connect again, too. A process ends when it has finished what it does, as at a shutdown of Dovecot;
 * one that hangs stays, and its lease ends what it may do.
 * Refuses: deliveries (LMTP serves other accounts as well, and is short), waiting for anyone's end, SIGKILL (it would
 * leave locks behind that others respect for minutes). */

#include "replay.h"

#include "hash.h"
#include "istream.h"
#include "master-service.h"
#include "master-service-settings.h"
#include "net.h"
#include "strescape.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ANVIL_REQUEST "VERSION\tanvil\t1\t0\nCONNECT-DUMP\n"
/* Longest time to connect to anvil, and longest wait for its next bytes. Past it: status 7. */
#define ANVIL_CONNECT_MS 500u
#define ANVIL_READ_SECONDS 2
/* A line is longer only for a user name of more than the limit. */
#define ANVIL_LINE_BYTES_MAX 8192u
/* Sessions of one host. Past it the rest is left alone, and the request fails. */
#define SESSIONS_MAX 1000000u
/* Between a session and the master may stand programs of the administrator (rawlog, scripts). */
#define ANCESTORS_MAX 4u

HASH_TABLE_DEFINE_TYPE(accounts, char *, char *);

struct kick {
    pool_t pool;
    HASH_TABLE_TYPE(accounts) accounts;
    bool everybody;
    ARRAY(pid_t) pids;
    uint64_t sessions;
};

static bool read_accounts(struct kick *kick, const unsigned char *body, size_t size)
{
    uint32_t i, count;
    size_t at = 4;

    if (size < 4)
        return FALSE;
    count = replay_get_u32(body);
    if (count > REPLAY_KICK_ACCOUNTS_MAX || count > (size - 4) / 4)
        return FALSE;
    kick->everybody = count == 0;
    for (i = 0; i < count; i++) {
        const char *text;
        size_t len;
        char *name;

        if (size - at < 4)
            return FALSE;
        len = replay_get_u32(body + at);
        at += 4;
        if (len > size - at || !replay_text(body + at, len, OP_ACCOUNT_BYTES_MAX, &text))
            return FALSE;
        name = p_strdup(kick->pool, text);
        hash_table_update(kick->accounts, name, name);
        at += len;
    }
    return at == size;
}

static bool is_session(const char *service)
{
    static const char *const services[] = { "imap", "pop3", "submission", "managesieve", NULL };

    return str_array_find(services, service);
}

/* `service/address/user`, or `service/user` of a session without an address. */
static bool split_ident(const char *ident, const char **service_r, const char **user_r)
{
    const char *slash = strchr(ident, '/'), *second;
    struct ip_addr ip;

    if (slash == NULL)
        return FALSE;
    *service_r = t_strdup_until(ident, slash);
    second = strchr(slash + 1, '/');
    *user_r = second != NULL && net_addr2ip(t_strdup_until(slash + 1, second), &ip) == 0 ? second + 1 : slash + 1;
    return TRUE;
}

/* FALSE: not a line of anvil's. */
static bool take_line(struct kick *kick, const char *line)
{
    const char *const *fields = t_strsplit_tabescaped(line);
    const char *service, *user;
    unsigned int refs;
    pid_t pid;

    if (str_array_length(fields) < 3 || !split_ident(fields[0], &service, &user) || str_to_pid(fields[1], &pid) < 0 ||
        str_to_uint(fields[2], &refs) < 0)
        return FALSE;
    if (pid > 1 && is_session(service) && (kick->everybody || hash_table_lookup(kick->accounts, user) != NULL)) {
        array_push_back(&kick->pids, &pid);
        kick->sessions += refs;
    }
    return TRUE;
}

static bool read_anvil(struct kick *kick, int fd, struct replay_result *result_r)
{
    struct istream *input = i_stream_create_fd(fd, ANVIL_LINE_BYTES_MAX);
    unsigned int lines = 0;
    bool ended = FALSE, ok = TRUE;
    const char *line;

    while (ok && !ended && (line = i_stream_read_next_line(input)) != NULL) T_BEGIN {
        if (*line == '\0')
            ended = TRUE;
        else
            ok = ++lines <= SESSIONS_MAX && take_line(kick, line);
    } T_END;
    if (!ended)
        replay_set(result_r, REPLAY_TEMPORARY, ok ? "anvil did not tell all sessions in time"
                                                  : "anvil tells its sessions in a way that is not known");
    i_stream_unref(&input);
    return ended;
}

static bool ask_anvil(struct kick *kick, struct replay_result *result_r)
{
    const struct timeval patience = { .tv_sec = ANVIL_READ_SECONDS, .tv_usec = 0 };
    const char *path;
    bool ok;
    int fd;

    path = t_strconcat(replay_base_dir(), "/anvil", NULL);
    fd = net_connect_unix_with_retries(path, ANVIL_CONNECT_MS);
    if (fd == -1) {
        replay_set(result_r, errno == EACCES ? REPLAY_REFUSED : REPLAY_TEMPORARY,
                   t_strdup_printf("cannot ask `%s` who is logged in: %m", path));
        return FALSE;
    }
    net_set_nonblock(fd, FALSE);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
        write(fd, ANVIL_REQUEST, strlen(ANVIL_REQUEST)) != (ssize_t)strlen(ANVIL_REQUEST)) {
        replay_set(result_r, REPLAY_TEMPORARY, t_strdup_printf("cannot write to `%s`: %m", path));
        ok = FALSE;
    } else {
        ok = read_anvil(kick, fd, result_r);
    }
    i_close_fd(&fd);
    return ok;
}

/* The parent of a process; 0 when there is none to be seen. */
static pid_t parent_of(pid_t pid)
{
    char stat[512], *end;
    ssize_t got;
    long parent;
    int fd;

    fd = open(t_strdup_printf("/proc/%ld/stat", (long)pid), O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return 0;
    got = read(fd, stat, sizeof(stat) - 1);
    i_close_fd(&fd);
    if (got <= 0)
        return 0;
    stat[got] = '\0';
    /* The name in brackets may hold anything: the state and the parent stand after the last bracket. */
    end = strrchr(stat, ')');
    return end != NULL && sscanf(end, ") %*c %ld", &parent) == 1 ? (pid_t)parent : 0;
}

static bool is_ours(pid_t pid)
{
    pid_t master = getppid();
    unsigned int i;

    for (i = 0; i < ANCESTORS_MAX && pid > 1; i++) {
        pid = parent_of(pid);
        if (pid == master)
            return TRUE;
    }
    return FALSE;
}

static int pid_cmp(const pid_t *a, const pid_t *b)
{
    return *a < *b ? -1 : *a > *b;
}

static bool end_all(struct kick *kick, struct replay_result *result_r)
{
    const pid_t *pid;
    pid_t last = 0;
    bool ok = TRUE;

    array_sort(&kick->pids, pid_cmp);
    array_foreach(&kick->pids, pid) T_BEGIN {
        if (*pid != last && is_ours(*pid) && kill(*pid, SIGTERM) < 0 && errno != ESRCH)
            ok = FALSE;
        last = *pid;
    } T_END;
    if (!ok)
        replay_set(result_r, REPLAY_REFUSED, "sessions cannot be ended: the service is neither root nor the mail user");
    return ok;
}

void replay_kick(const unsigned char *body, size_t size, uint64_t *sessions_r, struct replay_result *result_r)
{
    struct kick kick;

    i_zero(&kick);
    *sessions_r = 0;
    kick.pool = pool_alloconly_create("replay kick", 4096);
    hash_table_create(&kick.accounts, default_pool, 0, str_hash, strcmp);
    i_array_init(&kick.pids, 64);
    if (!read_accounts(&kick, body, size)) {
        replay_set(result_r, REPLAY_MALFORMED, "KICK whose lengths do not add up");
    } else if (ask_anvil(&kick, result_r) && end_all(&kick, result_r)) {
        *sessions_r = kick.sessions;
        replay_set(result_r, REPLAY_APPLIED, "");
    }
    array_free(&kick.pids);
    hash_table_destroy(&kick.accounts);
    pool_unref(&kick.pool);
}
