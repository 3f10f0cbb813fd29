/* The calls of the replay service that differ between Dovecot versions; compat.h is the plugin's half.
 *
 * Owns: names of our own for them. What can hurt: guessing; what was not compiled against a version is not
 * claimed for it. Compiled and run: 2.3.19 (Debian 12). Refuses: logic. */
#ifndef UNDERSTUDY_COMPAT_SERVICE_H
#define UNDERSTUDY_COMPAT_SERVICE_H

#include "lib.h"
#include "mail-storage.h"
#include "mail-storage-service.h"

/* 2.3 passes setting roots, 2.4 does not. */
static inline struct mail_storage_service_ctx *
us_storage_service_init(struct master_service *service, enum mail_storage_service_flags flags)
{
    return mail_storage_service_init(service, NULL, flags);
}

/* Fills in what a lookup needs to load this service's protocol settings. */
static inline void us_storage_service_input(struct mail_storage_service_input *input, const char *service,
                        const char *username)
{
    i_zero(input);
    input->module = "mail";
    input->service = service;
    input->username = username;
}

#endif
