{{/* The DaemonSet and everything of it: thalweg-proxy or thalweg-agent, whatever the release is called. */}}
{{- define "thalweg.name" -}}
thalweg-{{ .Values.mode }}
{{- end }}

{{- define "thalweg.selector" -}}
app.kubernetes.io/name: {{ include "thalweg.name" . }}
{{- end }}

{{- define "thalweg.labels" -}}
{{ include "thalweg.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "thalweg.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "thalweg.name" .) }}
{{- end }}

{{- define "thalweg.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "thalweg.configMap" -}}
{{- if and (eq .Values.mode "proxy") .Values.proxy.existingConfigMap -}}
{{ .Values.proxy.existingConfigMap }}
{{- else -}}
{{ include "thalweg.name" . }}
{{- end }}
{{- end }}

{{/* The proxy's configuration file: the chart's fields, and what the values say over them. */}}
{{- define "thalweg.configuration" -}}
{{- $ours := dict "apiVersion" "kubeproxy.config.k8s.io/v1alpha1" "kind" "KubeProxyConfiguration" -}}
{{- $client := dict "kubeconfig" "/var/lib/kube-proxy/kubeconfig.conf" -}}
{{- $health := printf "0.0.0.0:%v" .Values.healthzPort -}}
{{- toYaml (mergeOverwrite $ours (dict "clientConnection" $client "healthzBindAddress" $health) .Values.proxy.configuration) }}
{{- end }}

{{/* The keys of the ConfigMap, as kubeadm names them. */}}
{{- define "thalweg.files" -}}
{{- $server := required "apiServer: say how the nodes reach the API server without a service proxy, as in https://192.0.2.10:6443" .Values.apiServer -}}
{{- if eq .Values.mode "proxy" -}}
config.conf: |
  {{- include "thalweg.configuration" . | nindent 2 }}
{{ end -}}
kubeconfig.conf: |
  apiVersion: v1
  kind: Config
  clusters:
    - name: default
      cluster:
        certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
        server: {{ $server | quote }}
  users:
    - name: default
      user:
        tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
  contexts:
    - name: default
      context:
        cluster: default
        namespace: default
        user: default
  current-context: default
{{- end }}

{{/* What the pods of both modes have in common, beside their containers. */}}
{{- define "thalweg.podSpec" -}}
serviceAccountName: {{ include "thalweg.serviceAccount" . }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
priorityClassName: {{ .Values.priorityClassName }}
# The node's own interfaces are where the programs are attached, and its addresses serve NodePorts.
hostNetwork: true
{{- if and (eq .Values.mode "proxy") .Values.proxy.socketLB }}
# Connected sockets are in the pods' network namespaces, and those are found by the node's processes.
hostPID: true
{{- end }}
# Names in the kubeconfig must not need the cluster's DNS.
dnsPolicy: Default
nodeSelector:
  kubernetes.io/os: linux
  {{- with .Values.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: 10
securityContext:
  # The runtime's default lets nobody write to /sys/fs/bpf, and nobody look at processes of other containers.
  appArmorProfile:
    type: {{ .Values.appArmorProfile }}
  seccompProfile:
    type: {{ .Values.seccompProfile }}
{{- end }}

{{/* The probes of both modes. */}}
{{- define "thalweg.probes" -}}
livenessProbe:
  httpGet:
    path: /livez
    port: healthz
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /healthz
    port: healthz
  periodSeconds: 5
{{- end }}

{{/* Mounts a bpffs on a node that has none. Two-way, so that the node sees it too. */}}
{{- define "thalweg.mountBpffs" -}}
- name: mount-bpffs
  image: {{ include "thalweg.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sh, -ec]
  args:
    - grep -q ' /sys/fs/bpf bpf ' /proc/mounts || mount -t bpf bpf /sys/fs/bpf
  securityContext:
    runAsUser: 0
    privileged: true
    readOnlyRootFilesystem: true
  volumeMounts:
    - name: bpffs
      mountPath: /sys/fs/bpf
      mountPropagation: Bidirectional
{{- end }}

{{/* Mounts and volumes of both modes. */}}
{{- define "thalweg.mounts" -}}
# Programs, links and maps are pinned here, on the node's own bpffs, so that they outlive the pod.
- name: bpffs
  mountPath: /sys/fs/bpf
  mountPropagation: HostToContainer
# A container's own /sys/fs/cgroup begins at the container, and so would the socket balancing.
- name: cgroup
  mountPath: /host/cgroup
  readOnly: true
# Sockets, and what is reserved of the NodePorts: remembered as long as the kernel does, longer than the pod lives.
- name: run
  mountPath: /run/thalweg
# Writable, and not at its usual place: see the variable. It shows the namespace of the thread that looks.
- name: proc-sys-net
  mountPath: /host/proc/sys/net
{{- end }}

{{/* Environment of both modes. */}}
{{- define "thalweg.environment" -}}
- name: RUST_LOG
  value: {{ .Values.log | quote }}
# Containers see /proc/sys read-only, and runtimes refuse mounts inside /proc. NET_ADMIN is enough to write here.
- name: THALWEG_PROC_SYS_NET
  value: /host/proc/sys/net
{{- end }}

{{- define "thalweg.volumes" -}}
- name: config
  configMap:
    name: {{ include "thalweg.configMap" . }}
- name: bpffs
  hostPath:
    path: {{ .Values.bpffs.path }}
    type: Directory
- name: cgroup
  hostPath:
    path: {{ .Values.cgroup.path }}
    type: Directory
- name: run
  hostPath:
    path: /run/thalweg
    type: DirectoryOrCreate
- name: proc-sys-net
  hostPath:
    path: /proc/sys/net
    type: Directory
{{- end }}
