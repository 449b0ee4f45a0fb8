/* The init of a container-mode guest: what its parts share. */
#ifndef ZOS_GUEST_H
#define ZOS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	MAX_INTERFACES = 16, MAX_ADDRESSES = 16, MAX_ROUTES = 32, MAX_DISKS = 64, MAX_SHARES = 16, MAX_FILES = 64,
	MAX_WORDS = 4096
};

struct route { char *destination, *gateway; };

struct interface {
	char *mac, *ipv6; /* ipv6: NULL, "slaac" or "off" */
	unsigned mtu;
	char *addresses[MAX_ADDRESSES];
	struct route routes[MAX_ROUTES];
	size_t n_addresses, n_routes;
};

/* A disk by its serial, or a share of the host by its tag: that has no format. Of a share, what is mounted may be a directory
 * inside, which the host may replace; the share itself is then mounted out of everybody's sight. */
struct mount { char *source, *format, *path, *inside; bool read_only; int hidden; };
struct file { char *path, *content; size_t size; unsigned mode; };

/* See operator/zos/plan/guest.py, the writer. */
struct config {
	char *hostname, *root, *workdir, *user;
	struct interface interfaces[MAX_INTERFACES];
	struct mount mounts[MAX_DISKS + MAX_SHARES]; /* one after the other */
	struct file files[MAX_FILES];
	size_t n_interfaces, n_mounts, n_disks, n_shares, n_files, n_env, n_args;
	char *env[MAX_WORDS + 1], *args[MAX_WORDS + 1]; /* NULL-terminated */
	int stop_signal;
	unsigned stop_seconds;
	bool init; /* what runs is the image's own init, in the place of this one */
};

/* init.c. fail() tells the host why this guest can't run, and ends it. It does not return. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void status(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *must_alloc(size_t size);
/* A printf into memory of its own. */
char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* config.c: reads what the device `path` says; `text` is kept and pointed into. */
void config_read(const char *path, struct config *config);

/* devices.c */
void modules_load(const char *list);
/* Path of the block device with this serial (static memory); waits for it a while. NULL: there is none. */
const char *disk_find(const char *serial);
int uevents_open(void);
/* Handles what the kernel says: a disk that grew. True: it was (also) this device. */
bool uevents_read(int fd, const char *device);
/* The power button's event device, or -1. */
int button_open(void);
bool button_pressed(int fd);

/* mounts.c */
void mount_basics(void);
void mount_root(const char *serial);
void mount_enter(const struct config *config);
bool mount_switch(void);
/* The same for all of this machine: for who becomes another init. */
bool mount_become(void);
void mount_further(const struct config *config);
void mount_grow(const char *device);
void write_files(const struct config *config);
void unmount_all(void);
void make_parents(const char *path, unsigned mode);

/* shares.c. Of shares with something inside the whole is mounted before the image is entered. */
void shares_hide(struct config *config);
void share_mount(const struct mount *share);
void share_unmount(const char *path);
/* Puts what shares have inside by now where this process sees it, who is the entrypoint. */
void shares_renew(const struct config *config, int entrypoint);

/* network.c */
void network_up(const struct config *config);

/* process.c: starts the entrypoint as asked, in a session of its own on the console. Gives its pid. */
int process_start(const struct config *config);
/* The program in the place of this one. It does not return. */
void process_become(const struct config *config) __attribute__((noreturn));

/* keeper.c: what goes on beside another init. */
void keeper_start(const struct config *config, int signals, int uevents, const char *device);

#endif
