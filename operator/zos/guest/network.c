/* Addresses and routes over rtnetlink(7). */
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct request {
	struct nlmsghdr header;
	union { struct ifinfomsg link; struct ifaddrmsg address; struct rtmsg route; } body;
	char attributes[512];
};

static int netlink = -1;

static void attribute(struct request *request, unsigned short type, const void *data, size_t size)
{
	struct rtattr *rta = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
	rta->rta_type = type;
	rta->rta_len = (unsigned short)RTA_LENGTH(size);
	memcpy(RTA_DATA(rta), data, size);
	request->header.nlmsg_len = (uint32_t)(NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(rta->rta_len));
}

static struct request new_request(uint16_t type, uint16_t flags, size_t body)
{
	struct request request = {.header = {.nlmsg_type = type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags)}};
	request.header.nlmsg_len = (uint32_t)NLMSG_LENGTH(body);
	return request;
}

/* Gives 0 or an errno. */
static int ask(struct request *request)
{
	char answer[4096];
	if (netlink < 0)
		netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (send(netlink, request, request->header.nlmsg_len, 0) < 0)
		return errno;
	for (;;) {
		ssize_t size = recv(netlink, answer, sizeof answer, 0);
		struct nlmsghdr *header = (struct nlmsghdr *)answer;
		if (size < 0 && errno == EINTR)
			continue;
		if (size < (ssize_t)sizeof *header)
			return EIO;
		if (header->nlmsg_type == NLMSG_ERROR)
			return -((struct nlmsgerr *)NLMSG_DATA(header))->error;
	}
}

/* "10.1.2.3/24" → family, address, prefix length; gives the address' size, 0 if it is none. */
static size_t parse(const char *cidr, unsigned char *family, unsigned char address[16], unsigned char *prefix)
{
	char copy[64];
	snprintf(copy, sizeof copy, "%s", cidr);
	char *slash = strchr(copy, '/');
	if (slash)
		*slash++ = 0;
	*family = strchr(copy, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(*family, copy, address) != 1)
		return 0;
	size_t size = *family == AF_INET ? 4 : 16;
	*prefix = slash ? (unsigned char)atoi(slash) : (unsigned char)(size * 8);
	return size;
}

static void link_up(int index, unsigned mtu)
{
	struct request request = new_request(RTM_NEWLINK, 0, sizeof(struct ifinfomsg));
	uint32_t value = mtu;
	request.body.link.ifi_index = index;
	request.body.link.ifi_flags = request.body.link.ifi_change = IFF_UP;
	if (mtu)
		attribute(&request, IFLA_MTU, &value, sizeof value);
	int error = ask(&request);
	if (error)
		fail("interface %d: %s", index, strerror(error));
}

static void add_address(int index, const char *cidr)
{
	struct request request = new_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof(struct ifaddrmsg));
	unsigned char address[16], family, prefix;
	size_t size = parse(cidr, &family, address, &prefix);
	request.body.address.ifa_family = family;
	request.body.address.ifa_prefixlen = prefix;
	request.body.address.ifa_index = (unsigned)index;
	if (family == AF_INET6)
		request.body.address.ifa_flags = IFA_F_NODAD; /* the host gave it: nobody else has it */
	attribute(&request, IFA_LOCAL, address, size);
	attribute(&request, IFA_ADDRESS, address, size);
	int error = size ? ask(&request) : EINVAL;
	if (error)
		fail("address %s: %s", cidr, strerror(error));
}

static void add_route(int index, const struct route *route)
{
	struct request request = new_request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof(struct rtmsg));
	unsigned char to[16], via[16], family, gateway_family, prefix, ignored;
	uint32_t device = (uint32_t)index;
	size_t size = parse(route->destination, &family, to, &prefix);
	request.body.route.rtm_family = family;
	request.body.route.rtm_dst_len = prefix;
	request.body.route.rtm_table = RT_TABLE_MAIN;
	request.body.route.rtm_protocol = RTPROT_STATIC;
	request.body.route.rtm_scope = *route->gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
	request.body.route.rtm_type = RTN_UNICAST;
	if (prefix)
		attribute(&request, RTA_DST, to, size);
	attribute(&request, RTA_OIF, &device, sizeof device);
	if (*route->gateway) {
		size_t gateway = parse(route->gateway, &gateway_family, via, &ignored);
		/* A gateway outside of every prefix of ours is reached directly all the same. */
		request.body.route.rtm_flags = RTNH_F_ONLINK;
		attribute(&request, RTA_GATEWAY, via, gateway);
		size = gateway == size ? size : 0;
	}
	int error = size ? ask(&request) : EINVAL;
	if (error)
		fail("route %s through %s: %s", route->destination, route->gateway, strerror(error));
}

static int interface_by_mac(const char *mac)
{
	int found = 0, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct if_nameindex *all = if_nameindex();
	for (struct if_nameindex *one = all; one && one->if_index && !found; one++) {
		struct ifreq request = {0};
		char have[18];
		strncpy(request.ifr_name, one->if_name, IFNAMSIZ - 1);
		if (ioctl(fd, SIOCGIFHWADDR, &request) < 0 || request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
			continue;
		const unsigned char *b = (const unsigned char *)request.ifr_hwaddr.sa_data;
		snprintf(have, sizeof have, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
		if (strcmp(have, mac) == 0)
			found = (int)one->if_index;
	}
	if_freenameindex(all);
	close(fd);
	return found;
}

static void set_sysctl(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		fail("%s = %s: %s", path, value, strerror(errno));
	close(fd);
}

static void set(const char *family, const char *interface, const char *name, const char *value)
{
	char path[128];
	snprintf(path, sizeof path, "/proc/sys/net/%s/conf/%s/%s", family, interface, name);
	set_sysctl(path, value);
}

/* Before the interface is up: that is when the kernel makes its first addresses. */
static void set_ipv6(int index, const char *name, const char *how)
{
	bool slaac = strcmp(how, "slaac") == 0;
	if (!slaac && strcmp(how, "off") != 0)
		fail("interface %d: can't make anything of ipv6 \"%s\"", index, how);
	set("ipv6", name, "disable_ipv6", slaac ? "0" : "1");
	if (!slaac)
		return;
	set("ipv6", name, "addr_gen_mode", "0"); /* from the MAC: the one address that the host lets out */
	set("ipv6", name, "use_tempaddr", "0");
	set("ipv6", name, "autoconf", "1");
	set("ipv6", name, "accept_ra", "2"); /* also when the machine forwards for others, as containers in it make it do */
}

void network_up(const struct config *config)
{
	link_up((int)if_nametoindex("lo"), 0);
	/* As other engines have it: an image whose program isn't root's serves on port 80. Nobody else is in here. */
	set_sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
	for (size_t i = 0; i < config->n_interfaces; i++) {
		const struct interface *nic = &config->interfaces[i];
		int index = interface_by_mac(nic->mac);
		char name[IF_NAMESIZE];
		if (!index || !if_indextoname((unsigned)index, name))
			fail("interface %s: not there", nic->mac);
		/* An address may have been another machine's a moment ago, and neighbours remember whose for a while: they are told
		   when the interface comes up, so it has its addresses by then. */
		set("ipv4", name, "arp_notify", "1");
		if (nic->ipv6)
			set_ipv6(index, name, nic->ipv6);
		for (size_t j = 0; j < nic->n_addresses; j++)
			add_address(index, nic->addresses[j]);
		link_up(index, nic->mtu);
		for (size_t j = 0; j < nic->n_routes; j++)
			add_route(index, &nic->routes[j]);
	}
}
